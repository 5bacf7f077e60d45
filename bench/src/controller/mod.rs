//! `moorhouse-bench controller`: the metadata controller on a real etcd, in processes of their own, spoken to as agents do.
//!
//! [`commits`] compares commits with what etcd can do at all; [`million`] fills the [`books`] with a million parts, starts
//! controllers on them and kills one; [`readers`] follows the changelog.

mod books;
mod commits;
mod etcd;
mod figures;
mod ground;
mod load;
mod million;
mod process;
mod readers;
mod scale;

use std::time::Instant;

use moorhouse_base::tasks::stop_signal;
use serde_json::json;

use crate::args::ControllerArgs;
use crate::error::BenchError;
use crate::fs::machine;
use crate::report::Recorder;
use books::Books;
use figures::FIGURES;
use ground::Ground;
use million::Million;
use process::{Agent, Controller};
use scale::Scale;

/// True if everything that was asked for was measured.
///
/// # Errors
/// For wrong input, and if the report cannot be written.
pub async fn run(args: ControllerArgs) -> Result<bool, BenchError> {
    let mut recorder = Recorder::new(FIGURES, &args.only)?;
    let mut scale = Scale::new(args.quick);
    let started = Instant::now();
    let before = machine::load();
    let stopped = tokio::select! {
        () = measure(&args, &mut scale, &mut recorder) => false,
        // Dropping what was under way stops what was started.
        () = stop_signal() => true,
    };
    if stopped {
        return Err(BenchError::Stopped);
    }
    let about = json!({
        "bench": "controller",
        "version": env!("CARGO_PKG_VERSION"),
        "optimized": !cfg!(debug_assertions),
        "quick": args.quick,
        "scale": scale,
        "took_seconds": started.elapsed().as_secs(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "load_before": before,
        "load_after": machine::load(),
    });
    recorder.write(&args.out, &about)?;
    println!("{}", recorder.table());
    println!("{} ({:.0} s)", args.out.display(), started.elapsed().as_secs_f64());
    Ok(recorder.is_complete())
}

async fn measure(args: &ControllerArgs, scale: &mut Scale, recorder: &mut Recorder) {
    let ground = match Ground::prepare(&args.scratch).await {
        Ok(ground) => ground,
        Err(error) => {
            let all: Vec<&'static str> = FIGURES.iter().map(|figure| figure.name).collect();
            return recorder.fail_missing(&all, &error.to_string());
        }
    };
    recorder.step(commits::FIGURES, async |recorder| commits::run(&ground, scale, recorder).await).await;
    let many: Vec<&'static str> = [million::FIGURES, readers::FIGURES].concat();
    recorder
        .step(&many, async |recorder| {
            scale.empty_controller_mib = empty_controller(&ground).await?;
            let million = Million::fill(&ground, scale, recorder).await?;
            let leader = million::run(&ground, scale, &million, recorder).await?;
            readers::run(&leader, scale, &million, recorder).await
        })
        .await;
    ground.clear_away();
}

/// Memory of a controller without parts, in MiB.
async fn empty_controller(ground: &Ground) -> Result<f64, BenchError> {
    let (store_url, objects_url) = (ground.etcd.store_url("empty"), ground.objects_url("empty"));
    let (books, seats) = Books::open(&store_url, &objects_url, 1).await?;
    books.close().await;
    let mut controller = Controller::start(&ground.place(&store_url, &objects_url))?;
    let mut agent = Agent::new(controller.client()?, seats[0].clone())?;
    controller.commits(&mut agent).await?;
    machine::anonymous_memory_mib(controller.pid())
}
