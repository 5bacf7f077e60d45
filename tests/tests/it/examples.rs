//! The README's connection examples, run as they stand there; only the port and the password are put in.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use moorhouse_tests::binaries::{installed, repository};
use moorhouse_tests::readme::{Example, examples};
use moorhouse_tests::warehouse::{TestWarehouse, succeed};

#[test]
fn connection_examples_of_the_readme() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("there is a README");
    let examples = examples(&readme);
    let names: Vec<&str> = examples.iter().map(|example| example.name.as_str()).collect();
    assert_eq!(names, ["curl", "clickhouse-client", "clickhouse-connect", "@clickhouse/client"]);
    let warehouse = TestWarehouse::start(&[]);
    let place = warehouse.home.scratch().join("examples");
    fs::create_dir(&place).expect("the scratch directory is writable");
    for example in &examples {
        let code = example
            .code
            .replace("18110", &warehouse.http_port(0).to_string())
            .replace("18120", &warehouse.native_port(0).to_string())
            .replace("PASSWORD", &warehouse.password);
        let printed = succeed(command(example, &place, &code).current_dir(&place));
        assert_eq!(printed, example.output, "what the example {} prints; {}", example.name, warehouse.home.logs());
    }
}

fn command(example: &Example, place: &Path, code: &str) -> Command {
    match example.language.as_str() {
        "sh" => {
            let mut shell = Command::new("bash");
            shell.args(["-euc", code]);
            shell
        }
        "python" => {
            let mut python = Command::new(installed("python-clickhouse-connect-1.12.0/bin/python"));
            python.args(["-c", code]);
            python
        }
        "js" => {
            symlink(installed("js-clickhouse-client-1.23.1/node_modules"), place.join("node_modules"))
                .expect("a new link");
            fs::write(place.join("example.mjs"), code).expect("the directory is writable");
            let mut node = Command::new("node");
            node.arg("example.mjs");
            node
        }
        other => panic!("no way to run {other}"),
    }
}
