//! Writes indented XML with every text escaped.

/// Grows downwards: an element is complete when its call returns.
pub struct Xml {
    text: String,
    depth: usize,
}

impl Xml {
    /// A whole document below one root element.
    pub fn document(root: &str, content: impl FnOnce(&mut Self)) -> String {
        let mut xml = Self { text: String::new(), depth: 0 };
        xml.node(root, content);
        xml.text
    }

    /// An element with elements inside.
    pub fn node(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        self.line(&format!("<{name}>"));
        self.depth += 1;
        content(self);
        self.depth -= 1;
        self.line(&format!("</{name}>"));
    }

    /// An element with a text inside.
    pub fn leaf(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(&format!("<{name}>{}</{name}>", escape(&value.to_string())));
    }

    /// Several of them.
    pub fn leaves(&mut self, pairs: &[(&str, &str)]) {
        for (name, value) in pairs {
            self.leaf(name, value);
        }
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(&"    ".repeat(self.depth));
        self.text.push_str(line);
        self.text.push('\n');
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_and_nested() {
        let text = Xml::document("a", |xml| {
            xml.leaf("b", "x<&>\"'");
            xml.node("c", |xml| xml.leaf("d", 1));
        });
        assert_eq!(text, "<a>\n    <b>x&lt;&amp;&gt;&quot;&apos;</b>\n    <c>\n        <d>1</d>\n    </c>\n</a>\n");
    }
}
