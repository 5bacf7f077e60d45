//! `moorhouse-bench fs`: the shard file system against a plain disk and ClickHouse's own disks over the same object store.
//!
//! Each stage has a warehouse of its own, so that what one counts is not disturbed by what another left: [`speed`] has one
//! large table, [`many_parts`] tables of many small parts, [`uploads`] small inserts that merge. Rounds alternate between the
//! contenders (A B, B A, …).

mod cold;
mod durability;
mod figures;
mod ground;
mod hot;
pub mod machine;
mod many_parts;
mod memory;
mod metadata;
mod readers;
mod scale;
mod speed;
mod uploads;
mod writes;

use std::time::Instant;

use moorhouse_base::tasks::stop_signal;

use crate::args::FsArgs;
use crate::error::BenchError;
use crate::report::Recorder;
use figures::FIGURES;
use ground::Ground;
use scale::Scale;

/// True if everything that was asked for was measured.
///
/// # Errors
/// For wrong input, and if the report cannot be written.
pub async fn run(args: FsArgs) -> Result<bool, BenchError> {
    let mut recorder = Recorder::new(FIGURES, &args.only)?;
    let scale = Scale::of(&args);
    let started = Instant::now();
    let before = machine::load();
    let stopped = tokio::select! {
        () = measure(&args, &scale, &mut recorder) => false,
        // Dropping what was under way stops what was started.
        () = stop_signal() => true,
    };
    if stopped {
        return Err(BenchError::Stopped);
    }
    let about = machine::about(&scale, args.quick, before, started.elapsed());
    recorder.write(&args.out, &about)?;
    println!("{}", recorder.table());
    println!("{} ({:.0} s)", args.out.display(), started.elapsed().as_secs_f64());
    Ok(recorder.is_complete())
}

async fn measure(args: &FsArgs, scale: &Scale, recorder: &mut Recorder) {
    let ground = match Ground::prepare(&args.scratch, scale).await {
        Ok(ground) => ground,
        Err(error) => {
            let all: Vec<&'static str> = FIGURES.iter().map(|figure| figure.name).collect();
            return recorder.fail_missing(&all, &error.to_string());
        }
    };
    recorder.step(speed::FIGURES, async |recorder| speed::run(&ground, scale, recorder).await).await;
    recorder.step(many_parts::FIGURES, async |recorder| many_parts::run(&ground, scale, recorder).await).await;
    recorder.step(uploads::FIGURES, async |recorder| uploads::run(&ground, scale, recorder).await).await;
    ground.clear_away().await;
}
