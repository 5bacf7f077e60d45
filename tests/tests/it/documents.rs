//! Documents that must keep up with the code.

use std::collections::BTreeSet;
use std::fs;

use moorhouse_tests::binaries::repository;

use crate::structure::product_files;

/// Names between double quotes that begin with `moorhouse_`.
fn metric_names(source: &str) -> BTreeSet<String> {
    let words = source.split('"').skip(1).step_by(2);
    let is_name = |word: &&str| {
        word.starts_with("moorhouse_") && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    words.filter(is_name).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented() {
    let root = repository();
    let document = fs::read_to_string(root.join("docs/METRICS.md")).expect("there is a METRICS.md");
    let documented: BTreeSet<String> =
        document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let mut in_code = BTreeSet::new();
    for file in product_files(&root).iter().filter(|file| file.ends_with("metrics.rs")) {
        in_code.extend(metric_names(&fs::read_to_string(file).expect("a source file")));
    }
    assert!(!in_code.is_empty(), "no metric was found: where are they defined now?");
    assert_eq!(
        in_code.difference(&documented).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "metrics without documentation"
    );
    assert_eq!(documented.difference(&in_code).collect::<Vec<_>>(), Vec::<&String>::new(), "documented, but gone");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = repository();
    for name in
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/GLOSSARY.md", "docs/OPERATIONS.md", "docs/METRICS.md"]
    {
        let file = root.join(name);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let code_words: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
        let sources = code_words.into_iter().filter(|word| word.ends_with(".rs") && word.contains("/src/"));
        for source in sources {
            assert!(root.join(source).is_file(), "{name} names {source}, which is not there");
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if link.is_empty() || link.contains("://") {
                continue;
            }
            let target = file.parent().expect("a file lies somewhere").join(link);
            assert!(target.exists(), "{name} links to {link}, which is not there");
        }
    }
}
