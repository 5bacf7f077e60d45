//! Users, rights and settings: the configuration that the engine has, and what becomes of a newer one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use moorhouse_catalog::NodeView;
use moorhouse_engine::{
    Engine, EngineAccess, EngineBinary, EngineConfig, EngineError, EngineKind, SqlClient, quote_string,
};

use crate::{access, limits};

/// The engine's configuration, as far as documents say it.
pub struct Documents {
    /// What the engine has, or starts with.
    config: EngineConfig,
    /// With which it has started before.
    last_good: EngineConfig,
    /// A configuration with which it would not start, and why: not tried again.
    refused: Option<(EngineAccess, String)>,
    /// Which row filters the engine could read.
    read: HashMap<String, bool>,
    /// As [`super::Applied::config_error`].
    pub(super) error: String,
}

impl Documents {
    /// Begins with a configuration that knows no documents.
    pub fn new(config: EngineConfig) -> Self {
        let last_good = config.clone();
        Self { config, last_good, refused: None, read: HashMap::new(), error: String::new() }
    }

    /// Starts the engine; with what it had before, if it does not take what is new.
    pub(super) async fn start(&mut self, binary: &EngineBinary) -> Result<Engine, EngineError> {
        match Engine::start(binary, &self.config).await {
            Err(error) if self.config.access != self.last_good.access => {
                tracing::error!(%error, "the engine does not start with the new documents: it keeps those of before");
                let refused = std::mem::replace(&mut self.config, self.last_good.clone());
                self.refused = Some((refused.access, error.to_string()));
                Engine::start(binary, &self.config).await
            }
            started => started.inspect(|_| self.last_good = self.config.clone()),
        }
    }

    /// Users, rights and settings as the view says. True if that takes a new start.
    pub(super) async fn realign(&mut self, binary: &EngineBinary, engine: &Engine, view: &NodeView) -> bool {
        let unreadable = self.read_filters(engine.sql(), view).await;
        let access = access::engine_access(view, |rows| self.read.get(rows).copied().unwrap_or(false));
        let refused = self.refused.as_ref().filter(|(refused, _)| *refused == access);
        self.error = match (refused, unreadable) {
            (Some((_, error)), _) => error.clone(),
            (None, Some(rows)) => format!("the row filter {rows:?} cannot be read: it shows no row"),
            (None, None) => String::new(),
        };
        if access == self.config.access || refused.is_some() {
            return false;
        }
        let new = EngineConfig { access, ..self.config.clone() };
        if binary.kind() == EngineKind::Embedded {
            self.config = new;
            return true;
        }
        match engine.reload(&new).await {
            Ok(()) => self.config = new,
            Err(error) => {
                tracing::error!(%error, "the engine does not take the new documents");
                self.error = error.to_string();
                self.refused = Some((new.access, error.to_string()));
            }
        }
        false
    }

    /// Asks the engine which row filters it can read; one that it cannot would keep it from starting. Answers with such a one.
    async fn read_filters(&mut self, sql: &SqlClient, view: &NodeView) -> Option<String> {
        for rows in access::expressions(view) {
            if self.read.contains_key(rows) {
                continue;
            }
            let statement = quote_string(&format!("SELECT ({rows})"));
            match sql.query(&format!("SELECT isNull(formatQueryOrNull({statement}))")).await {
                Ok(answer) => drop(self.read.insert(rows.to_owned(), answer.trim() == "0")),
                Err(error) => tracing::warn!(%error, "a row filter was not looked at: it shows no row until then"),
            }
        }
        access::expressions(view).into_iter().find(|rows| self.read.get(*rows) != Some(&true)).map(str::to_owned)
    }
}

/// Waits, for a while, until no user's statement runs.
pub(super) async fn drain(sql: &SqlClient) {
    let deadline = Instant::now() + limits::ENGINE_DRAIN;
    let running =
        "SELECT count() FROM system.processes WHERE query_id != queryID() AND NOT startsWith(user, 'moorhouse')";
    while Instant::now() < deadline {
        match sql.query(running).await {
            Ok(count) if count.trim() == "0" => return,
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => {
                tracing::warn!(%error, "the engine does not say what runs: it is not waited for");
                return;
            }
        }
    }
}
