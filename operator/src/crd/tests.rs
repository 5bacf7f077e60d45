//! The chart's definitions are the generated ones.

use std::path::{Path, PathBuf};

use super::{definitions, to_yaml};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/moorhouse/crds")
}

#[test]
fn the_chart_has_what_is_generated() {
    for (file, definition) in definitions() {
        let wanted = to_yaml(&definition).expect("it can be written");
        let found = std::fs::read_to_string(folder().join(file)).unwrap_or_default();
        assert!(wanted == found, "charts/moorhouse/crds/{file} is out of date: run `make crds`");
    }
    let files = std::fs::read_dir(folder()).expect("the folder is there").count();
    assert_eq!(files, definitions().len(), "a definition that nothing generates lies in charts/moorhouse/crds");
}

#[test]
fn every_field_says_what_it_is_for() {
    // What a user reads in `kubectl explain`: a rule's message names what to do instead.
    for (file, definition) in definitions() {
        let text = to_yaml(&definition).expect("it can be written");
        assert!(!text.contains("format: uint"), "{file}: the API server knows no unsigned formats");
    }
}
