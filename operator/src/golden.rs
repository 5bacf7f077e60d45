//! For tests: what was built, against what lies in `golden/`.

use std::path::Path;

use crate::apply::Built;

/// # Panics
/// If they differ. With UPDATE_GOLDEN=1 the file is written anew instead: read the difference before it is committed.
pub fn assert_golden(file: &str, built: &[Built]) {
    let documents = built.iter().map(|object| serde_saphyr::to_string(&object.to_json()).expect("JSON is YAML"));
    let found = documents.collect::<Vec<_>>().join("---\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).expect("golden/ can be written");
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "golden/{file} differs from what is built; see it with UPDATE_GOLDEN=1 and git diff");
}
