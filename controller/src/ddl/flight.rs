//! Requests that this leader has in hand, by token: whoever asks again under the same token follows the same task.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use moorhouse_catalog::{DdlSeq, DdlToken};
use moorhouse_proto::DdlProgress;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::error::ControllerError;

/// How it ended, as far as this leader can tell.
#[derive(Debug, Clone)]
pub enum End {
    Told {
        seq: DdlSeq,
        /// The error in the words that the user sees.
        result: Result<(), String>,
    },
    /// Ask again, under the same token.
    Unknown(ControllerError),
}

#[derive(Debug, Clone)]
pub enum Step {
    Begun,
    At(DdlProgress),
    Ended(End),
}

type InHand = Mutex<HashMap<DdlToken, watch::Receiver<Step>>>;

#[derive(Default)]
pub struct Flights {
    in_hand: Arc<InHand>,
}

/// One request in hand, until this goes.
pub struct Flight {
    token: DdlToken,
    steps: watch::Sender<Step>,
    in_hand: Arc<InHand>,
}

impl Flights {
    /// The flight is for the first who asks alone; the steps are for all.
    pub fn begin(&self, token: DdlToken) -> (Option<Flight>, watch::Receiver<Step>) {
        let mut in_hand = self.in_hand.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(steps) = in_hand.get(&token) {
            return (None, steps.clone());
        }
        let (sender, receiver) = watch::channel(Step::Begun);
        in_hand.insert(token, receiver.clone());
        (Some(Flight { token, steps: sender, in_hand: Arc::clone(&self.in_hand) }), receiver)
    }
}

impl Flight {
    pub fn at(&self, progress: DdlProgress) {
        self.steps.send_if_modified(|step| match step {
            Step::At(known) if *known == progress => false,
            step => {
                *step = Step::At(progress);
                true
            }
        });
    }

    pub fn end(self, end: End) {
        self.steps.send_replace(Step::Ended(end));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.in_hand.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

/// Tells a client, until the end or until it leaves. A slow client misses steps, not the end.
pub async fn follow(mut steps: watch::Receiver<Step>, client: mpsc::Sender<Result<DdlProgress, Status>>) {
    loop {
        let step = steps.borrow_and_update().clone();
        let message = match step {
            Step::Begun => None,
            Step::At(progress) => Some(Ok(progress)),
            Step::Ended(end) => {
                // The client may have left.
                let _ = client.send(last(end)).await;
                return;
            }
        };
        if let Some(message) = message
            && client.send(message).await.is_err()
        {
            return;
        }
        let changed = tokio::select! {
            changed = steps.changed() => changed,
            () = client.closed() => return,
        };
        if changed.is_err() && !matches!(*steps.borrow(), Step::Ended(_)) {
            let _ = client.send(Err(ControllerError::Stopping.into())).await;
            return;
        }
    }
}

fn last(end: End) -> Result<DdlProgress, Status> {
    match end {
        End::Told { seq, result } => {
            let error = result.err().unwrap_or_default();
            Ok(DdlProgress { ddl_seq: seq.0, nodes_total: 0, nodes_done: 0, finished: true, error })
        }
        End::Unknown(error) => Err(error.into()),
    }
}
