//! The examples of a Markdown file: code blocks that follow a line `<!-- test: NAME -->`, each with the block of expected
//! output after it.

#[derive(Debug, PartialEq, Eq)]
pub struct Example {
    pub name: String,
    /// As written after the opening fence: `sh`, `python`, `js`.
    pub language: String,
    pub code: String,
    /// The `text` block that follows.
    pub output: String,
}

/// # Panics
/// If a marker is not followed by a code block and a `text` block.
pub fn examples(markdown: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.trim().strip_prefix("<!-- test: ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let (language, code) = next_block(&mut lines).unwrap_or_else(|| panic!("no code block after {line}"));
        let (kind, output) = next_block(&mut lines).unwrap_or_else(|| panic!("no output block after {line}"));
        assert_eq!(kind, "text", "the block after the code of {name} is its output");
        found.push(Example { name: name.to_owned(), language, code, output });
    }
    found
}

fn next_block<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Option<(String, String)> {
    let language = lines.find_map(|line| line.strip_prefix("```"))?.to_owned();
    let body: Vec<&str> = lines.take_while(|line| *line != "```").collect();
    Some((language, body.join("\n") + "\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_block_and_its_output_are_found() {
        let text =
            "x\n```sh\nnot this\n```\n<!-- test: a -->\n```sh\necho 1\necho 2\n```\nprints\n```text\n1\n2\n```\n";
        let expected = Example {
            name: "a".to_owned(),
            language: "sh".to_owned(),
            code: "echo 1\necho 2\n".to_owned(),
            output: "1\n2\n".to_owned(),
        };
        assert_eq!(examples(text), [expected]);
    }
}
