//! `moorctl fsck`: asks the controller for a check, shows what it finds, and says by the exit code whether all is well.

use moorhouse_proto::{FsckFinding, FsckRequest, FsckSummary};
use serde_json::{Value, json};

use crate::args::{FsckArgs, Output};
use crate::controller::{Controller, in_words};
use crate::error::CtlError;
use crate::show::{Listing, print_json, print_text};

/// Nothing is changed without `--repair --yes`; `--repair` alone shows what would be.
pub async fn run(controller: &mut Controller, args: FsckArgs, output: Output) -> Result<(), CtlError> {
    let FsckArgs { deep, repair, yes } = args;
    let mut events = controller.fsck(FsckRequest { deep, repair: repair && yes }).await?;
    let mut findings = Vec::new();
    let mut summary = None;
    while let Some(event) = events.message().await.map_err(in_words)? {
        findings.extend(event.finding);
        summary = event.summary.or(summary);
    }
    let summary = summary.ok_or_else(|| CtlError::failed("the controller went away in the middle of the check"))?;
    show(&findings, &summary, args, output)?;
    match summary.findings - summary.repaired {
        0 => Ok(()),
        left => Err(CtlError::failed(format!("{left} findings: the warehouse is not as its catalog says"))),
    }
}

fn show(findings: &[FsckFinding], summary: &FsckSummary, args: FsckArgs, output: Output) -> Result<(), CtlError> {
    let mut listing = Listing::new(&["kind", "subject", "detail", "repair", "repaired"]);
    for FsckFinding { kind, subject, detail, repair, repaired } in findings {
        listing.push([json!(kind), json!(subject), json!(detail), json!(repair), json!(repaired)]);
    }
    if output == Output::Json {
        let mut document = numbers(summary);
        document["finding_list"] = listing.to_json();
        return print_json(&document);
    }
    if !findings.is_empty() {
        print_text(&listing.to_table())?;
    }
    print_text(&format!(
        "{} parts: {} files stored, {} staged; {} objects of {} bytes, {} of uploads under way, {} to be deleted when \
         their grace is over; {}",
        summary.parts,
        summary.files_stored,
        summary.files_staged,
        summary.objects,
        summary.object_bytes,
        summary.objects_fresh,
        summary.objects_doomed,
        if summary.deep { format!("{} bytes read", summary.bytes_read) } else { "no content read".to_owned() },
    ))?;
    let repairable = findings.iter().filter(|finding| !finding.repair.is_empty() && !finding.repaired).count();
    match (repairable, args.repair, args.yes) {
        (0, ..) => Ok(()),
        (n, false, _) => print_text(&format!("{n} findings can be repaired: see --repair")),
        (n, true, _) => print_text(&format!("nothing was changed; --repair --yes repairs {n} findings as shown")),
    }
}

fn numbers(summary: &FsckSummary) -> Value {
    let FsckSummary {
        parts,
        files_stored,
        files_staged,
        objects,
        object_bytes,
        objects_fresh,
        objects_doomed,
        bytes_read,
        findings,
        repaired,
        deep,
    } = summary;
    json!({
        "parts": parts,
        "files_stored": files_stored,
        "files_staged": files_staged,
        "objects": objects,
        "object_bytes": object_bytes,
        "objects_fresh": objects_fresh,
        "objects_doomed": objects_doomed,
        "bytes_read": bytes_read,
        "findings": findings,
        "repaired": repaired,
        "deep": deep,
    })
}
