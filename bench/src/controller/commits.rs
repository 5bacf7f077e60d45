//! Commits of agents against plain puts of as many clients to the same etcd, turn by turn.

use super::books::Books;
use super::ground::Ground;
use super::process::Controller;
use super::scale::Scale;
use crate::error::BenchError;
use crate::report::{Recorder, Unit};
use crate::stats::Samples;

pub const FIGURES: &[&str] = &[
    "commits_per_s_1",
    "commits_per_s_16",
    "commits_per_s_256",
    "commit_vs_etcd_put_1",
    "commit_vs_etcd_put_16",
    "commit_vs_etcd_put_256",
    "commit_p50_1",
    "commit_p99_1",
    "commit_p50_16",
    "commit_p99_16",
    "commit_p50_256",
    "commit_p99_256",
];

pub async fn run(ground: &Ground, scale: &Scale, recorder: &mut Recorder) -> Result<(), BenchError> {
    let store_url = ground.etcd.store_url("commits");
    let most = scale.agents.iter().copied().max().unwrap_or(1);
    let (books, seats) = Books::open(&store_url, &ground.objects_url("commits"), most).await?;
    books.close().await;
    let mut controller = Controller::start(&ground.place(&store_url, &ground.objects_url("commits")))?;
    let mut first = super::process::Agent::new(controller.client()?, seats[0].clone())?;
    controller.commits(&mut first).await?;
    for &count in &scale.agents {
        let mut agents = controller.agents(&seats[..count])?;
        let mut putters = ground.etcd.putters(count).await?;
        let [mut commits, mut puts, mut p50, mut p99] = std::array::from_fn(|_| Samples::new());
        // Connections are made, and both sides warm.
        agents.run(scale.commit_time / 4).await?;
        putters.run(scale.commit_time / 4).await?;
        for _ in 0..scale.rounds {
            let outcome = agents.run(scale.commit_time).await?;
            commits.push(outcome.per_second);
            p50.push(outcome.percentile_ms(50.0));
            p99.push(outcome.percentile_ms(99.0));
            puts.push(putters.run(scale.commit_time).await?.per_second);
        }
        recorder.value(&format!("commits_per_s_{count}"), &commits);
        let name = format!("commit_vs_etcd_put_{count}");
        recorder.ratio(&name, Unit::PerSecond, ("commits", &commits), ("etcd", &puts));
        recorder.value(&format!("commit_p50_{count}"), &p50);
        recorder.value(&format!("commit_p99_{count}"), &p99);
    }
    Ok(())
}
