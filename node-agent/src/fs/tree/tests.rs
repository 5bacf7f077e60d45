//! The tree against a plain reference: a map from path to file identity, with the same operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Paths of the reference: `None` is a directory.
type Reference = BTreeMap<String, Option<u64>>;

#[derive(Debug, Clone)]
enum Op {
    MakeDir(usize, u8),
    MakeFile(usize, u8),
    Link(usize, usize, u8),
    Unlink(usize),
    RemoveDir(usize),
    Rename(usize, usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let name = 0u8..4;
    prop_oneof![
        (any::<usize>(), name.clone()).prop_map(|(d, n)| Op::MakeDir(d, n)),
        (any::<usize>(), name.clone()).prop_map(|(d, n)| Op::MakeFile(d, n)),
        (any::<usize>(), any::<usize>(), name.clone()).prop_map(|(f, d, n)| Op::Link(f, d, n)),
        any::<usize>().prop_map(Op::Unlink),
        any::<usize>().prop_map(Op::RemoveDir),
        (any::<usize>(), any::<usize>(), name).prop_map(|(f, d, n)| Op::Rename(f, d, n)),
    ]
}

fn split(path: &str) -> (String, String) {
    let (parent, name) = path.rsplit_once('/').expect("below the root");
    (parent.to_string(), name.to_string())
}

fn find(tree: &Tree, path: &str) -> Ino {
    path.split('/').filter(|p| !p.is_empty()).fold(ROOT, |at, name| tree.child(at, name).expect("the reference has it"))
}

/// An existing path, chosen by number; directories alone if so asked (the root is "").
fn pick(reference: &Reference, choice: usize, dirs: bool) -> String {
    let mut paths: Vec<String> =
        reference.iter().filter(|(_, v)| !dirs || v.is_none()).map(|(k, _)| k.clone()).collect();
    if dirs {
        paths.push(String::new());
    }
    if paths.is_empty() { String::new() } else { paths[choice % paths.len()].clone() }
}

fn has_children(reference: &Reference, path: &str) -> bool {
    reference.keys().any(|p| p.starts_with(&format!("{path}/")))
}

/// What the reference does; an error is worth its kind.
fn expect(reference: &mut Reference, op: &Op, next: &mut u64) -> Result<(), TreeError> {
    match op {
        Op::MakeDir(d, n) | Op::MakeFile(d, n) => {
            let path = format!("{}/{n}", pick(reference, *d, true));
            if reference.contains_key(&path) {
                return Err(TreeError::Exists);
            }
            *next += 1;
            reference.insert(path, matches!(op, Op::MakeFile(..)).then_some(*next));
            Ok(())
        }
        Op::Link(f, d, n) => {
            let (from, path) = (pick(reference, *f, false), format!("{}/{n}", pick(reference, *d, true)));
            match reference.get(&from) {
                None | Some(None) => Err(TreeError::IsDirectory),
                Some(_) if reference.contains_key(&path) => Err(TreeError::Exists),
                Some(file) => {
                    let file = *file;
                    reference.insert(path, file);
                    Ok(())
                }
            }
        }
        Op::Unlink(f) => {
            let path = pick(reference, *f, false);
            match reference.get(&path) {
                None => Err(TreeError::NotFound),
                Some(None) => Err(TreeError::IsDirectory),
                Some(Some(_)) => {
                    reference.remove(&path);
                    Ok(())
                }
            }
        }
        Op::RemoveDir(d) => {
            let path = pick(reference, *d, false);
            match reference.get(&path) {
                None => Err(TreeError::NotFound),
                Some(Some(_)) => Err(TreeError::NotDirectory),
                Some(None) if has_children(reference, &path) => Err(TreeError::NotEmpty),
                Some(None) => {
                    reference.remove(&path);
                    Ok(())
                }
            }
        }
        Op::Rename(f, d, n) => {
            expect_rename(reference, &pick(reference, *f, false), &format!("{}/{n}", pick(reference, *d, true)))
        }
    }
}

fn expect_rename(reference: &mut Reference, from: &str, to: &str) -> Result<(), TreeError> {
    let Some(moved) = reference.get(from).copied() else { return Err(TreeError::NotFound) };
    if from == to {
        return Ok(());
    }
    if moved.is_none() && to.starts_with(&format!("{from}/")) {
        return Err(TreeError::IntoItself);
    }
    match (reference.get(to).copied(), moved) {
        (None, _) => {}
        (Some(Some(target)), Some(file)) if target == file => return Ok(()),
        (Some(None), None) if has_children(reference, to) => return Err(TreeError::NotEmpty),
        (Some(None), None) | (Some(Some(_)), Some(_)) => {}
        (Some(None), Some(_)) => return Err(TreeError::IsDirectory),
        (Some(Some(_)), None) => return Err(TreeError::NotDirectory),
    }
    let below: Vec<String> = reference.keys().filter(|p| p.starts_with(&format!("{from}/"))).cloned().collect();
    reference.remove(from);
    reference.insert(to.to_string(), moved);
    for path in below {
        let value = reference.remove(&path).expect("just listed");
        reference.insert(format!("{to}{}", &path[from.len()..]), value);
    }
    Ok(())
}

fn perform(tree: &mut Tree, reference: &Reference, op: &Op) -> Result<(), TreeError> {
    let now = SystemTime::UNIX_EPOCH;
    let new_dir = |d: usize| find(tree, &pick(reference, d, true));
    match op {
        Op::MakeDir(d, n) => tree.make_dir(new_dir(*d), &n.to_string(), 0o755, now).map(drop),
        Op::MakeFile(d, n) => {
            let body = Body::Blob(Blob { id: BlobId::random(), sealed: None });
            tree.make_file(new_dir(*d), &n.to_string(), 0o644, now, body).map(drop)
        }
        Op::Link(f, d, n) => tree.link(find(tree, &pick(reference, *f, false)), new_dir(*d), &n.to_string(), now),
        Op::Unlink(_) | Op::RemoveDir(_) | Op::Rename(..) if reference.is_empty() => Err(TreeError::NotFound),
        Op::Unlink(f) => {
            let (parent, name) = split(&pick(reference, *f, false));
            tree.unlink(find(tree, &parent), &name, now).map(drop)
        }
        Op::RemoveDir(f) => {
            let (parent, name) = split(&pick(reference, *f, false));
            tree.remove_dir(find(tree, &parent), &name, now)
        }
        Op::Rename(f, d, n) => {
            let (parent, name) = split(&pick(reference, *f, false));
            let target = new_dir(*d);
            tree.rename((find(tree, &parent), &name), (target, &n.to_string()), now).map(drop)
        }
    }
}

/// Every path with the inode of its file.
fn walk(tree: &Tree, dir: Ino, at: &str, into: &mut BTreeMap<String, Option<Ino>>) {
    for entry in tree.entries(dir).expect("a directory") {
        let path = format!("{at}/{}", entry.name);
        into.insert(path.clone(), (!entry.is_dir).then_some(entry.ino));
        if entry.is_dir {
            walk(tree, entry.ino, &path, into);
        }
    }
}

fn check(tree: &Tree, reference: &Reference) {
    let mut found = BTreeMap::new();
    walk(tree, ROOT, "", &mut found);
    assert_eq!(found.keys().collect::<Vec<_>>(), reference.keys().collect::<Vec<_>>());
    let mut identity: HashMap<u64, Ino> = HashMap::new();
    let mut names: HashMap<Ino, u32> = HashMap::new();
    for (path, file) in reference {
        let Some(file) = file else { continue };
        let ino = found[path].expect("a file");
        assert_eq!(*identity.entry(*file).or_insert(ino), ino, "hard links share one inode: {path}");
        *names.entry(ino).or_default() += 1;
    }
    for (ino, count) in names {
        let node = tree.get(ino).expect("named");
        assert_eq!(node.nlink, count);
        let Body::Blob(blob) = &node.body else { panic!("only blobs here") };
        assert_eq!(tree.by_blob(blob.id), Some(ino));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_map_of_paths(ops in prop::collection::vec(op(), 1..60)) {
        let (mut tree, mut reference, mut next) = (Tree::new(), Reference::new(), 0);
        for op in ops {
            let before = reference.clone();
            let expected = expect(&mut reference, &op, &mut next);
            let got = perform(&mut tree, &before, &op);
            prop_assert_eq!(got, expected, "{:?} on {:?}", op, before);
            check(&tree, &reference);
        }
    }
}

#[test]
fn an_unlinked_inode_lives_until_the_kernel_forgets_it() {
    let mut tree = Tree::new();
    let now = SystemTime::UNIX_EPOCH;
    let file = tree.make_file(ROOT, "f", 0o644, now, Body::Small(Small::default())).expect("made");
    tree.looked_up(file);
    tree.looked_up(file);
    tree.unlink(ROOT, "f", now).expect("unlinked");
    tree.forget(file, 1);
    assert!(tree.get(file).is_ok());
    tree.forget(file, 1);
    assert_eq!(tree.get(file).err(), Some(TreeError::NotFound));
}

#[test]
fn small_files_have_a_limit() {
    let mut small = Small::default();
    assert_eq!(small.write(SMALL_FILE_MAX_BYTES, b"x"), Err(TreeError::TooLarge));
    small.write(2, b"ab").expect("fits");
    assert_eq!(small.content, b"\0\0ab");
    assert!(small.is_dirty());
}
