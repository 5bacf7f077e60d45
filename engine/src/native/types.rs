//! How many bytes a column of a type takes, as far as the type's name tells.

/// How a column's values lie in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// So many bytes each.
    Fixed(u64),
    /// A length and bytes each.
    Text,
    /// A byte each, then the values.
    Nullable(Box<Layout>),
    /// An end each (8 bytes), then all elements.
    Array(Box<Layout>),
    /// One column after the other.
    Tuple(Vec<Layout>),
    /// LowCardinality; of its keys, which are never NULL.
    Dictionary(Box<Layout>),
}

/// Types within types deeper than this are none that we know.
const DEEPEST: usize = 64;

/// The layout of a type by its name, `None` if it is not known.
pub fn layout(name: &str) -> Option<Layout> {
    nested(name.trim(), 0)
}

fn nested(name: &str, depth: usize) -> Option<Layout> {
    if depth > DEEPEST {
        return None;
    }
    let (word, arguments) = match name.split_once('(') {
        Some((word, rest)) => (word.trim(), Some(rest.trim_end().strip_suffix(')')?)),
        None => (name, None),
    };
    let inner = |text: &str| nested(text.trim(), depth + 1).map(Box::new);
    Some(match (word, arguments) {
        ("String", None) => Layout::Text,
        ("FixedString", Some(length)) => Layout::Fixed(length.trim().parse().ok()?),
        ("Nullable", Some(of)) => Layout::Nullable(inner(of)?),
        ("Array", Some(of)) => Layout::Array(inner(of)?),
        ("Map", Some(of)) => Layout::Array(Box::new(tuple(of, depth)?)),
        ("Nested", Some(of)) => Layout::Array(Box::new(tuple(of, depth)?)),
        ("Tuple", Some(of)) => tuple(of, depth)?,
        ("Tuple", None) => Layout::Tuple(Vec::new()),
        ("LowCardinality", Some(of)) => Layout::Dictionary(match nested(of.trim(), depth + 1)? {
            Layout::Nullable(keys) => keys,
            keys => Box::new(keys),
        }),
        ("SimpleAggregateFunction", Some(of)) => {
            let parts = split(of);
            *inner(parts.get(1)?)?
        }
        ("Decimal", Some(of)) => Layout::Fixed(match split(of).first()?.trim().parse().ok()? {
            0_u32..=9 => 4,
            10..=18 => 8,
            19..=38 => 16,
            39..=76 => 32,
            _ => return None,
        }),
        ("Point", None) => point(),
        ("Ring" | "LineString", None) => array(point()),
        ("Polygon" | "MultiLineString", None) => array(array(point())),
        ("MultiPolygon", None) => array(array(array(point()))),
        _ => Layout::Fixed(width(word)?),
    })
}

fn point() -> Layout {
    Layout::Tuple(vec![Layout::Fixed(8), Layout::Fixed(8)])
}

fn array(of: Layout) -> Layout {
    Layout::Array(Box::new(of))
}

/// Bytes of a value of a type that needs no arguments for it.
fn width(word: &str) -> Option<u64> {
    Some(match word {
        "UInt8" | "Int8" | "Bool" | "Enum8" | "Nothing" => 1,
        "UInt16" | "Int16" | "Date" | "Enum16" | "BFloat16" => 2,
        "UInt32" | "Int32" | "Float32" | "DateTime" | "Date32" | "IPv4" | "Decimal32" | "Time" => 4,
        "UInt64" | "Int64" | "Float64" | "DateTime64" | "Decimal64" | "Time64" => 8,
        "UInt128" | "Int128" | "UUID" | "IPv6" | "Decimal128" => 16,
        "UInt256" | "Int256" | "Decimal256" => 32,
        _ if word.starts_with("Interval") => 8,
        _ => return None,
    })
}

/// Elements with or without names: `UInt8, a String, `b c` Array(UInt8)`.
fn tuple(elements: &str, depth: usize) -> Option<Layout> {
    if elements.trim().is_empty() {
        return Some(Layout::Tuple(Vec::new()));
    }
    let element = |text: &str| {
        let text = text.trim();
        nested(text, depth + 1).or_else(|| nested(without_name(text)?, depth + 1))
    };
    split(elements).into_iter().map(element).collect::<Option<_>>().map(Layout::Tuple)
}

/// What follows an element's name.
fn without_name(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| matches!(c, '`' | '"'));
    let end = match quote {
        None => text.find(char::is_whitespace)?,
        Some(quote) => {
            let mut escaped = false;
            let closing = text.char_indices().skip(1).find(|(_, c)| {
                let closes = *c == quote && !escaped;
                escaped = *c == '\\' && !escaped;
                closes
            });
            closing?.0 + 1
        }
    };
    Some(text[end..].trim_start())
}

/// At the commas that are in no brackets and no quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '`' | '"') => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_come_from_names() {
        assert_eq!(layout("UInt64"), Some(Layout::Fixed(8)));
        assert_eq!(layout("DateTime64(3, 'Asia/Tokyo')"), Some(Layout::Fixed(8)));
        assert_eq!(layout("Decimal(38, 5)"), Some(Layout::Fixed(16)));
        assert_eq!(layout("Decimal64(5)"), Some(Layout::Fixed(8)));
        assert_eq!(layout("Enum8('a, (b' = 1, '\\'' = 2)"), Some(Layout::Fixed(1)));
        assert_eq!(layout("FixedString(7)"), Some(Layout::Fixed(7)));
        assert_eq!(layout("SimpleAggregateFunction(sum, UInt16)"), Some(Layout::Fixed(2)));
    }

    #[test]
    fn types_within_types() {
        let text = || Box::new(Layout::Text);
        assert_eq!(layout("Array(Nullable(String))"), Some(Layout::Array(Box::new(Layout::Nullable(text())))));
        assert_eq!(layout("LowCardinality(Nullable(String))"), Some(Layout::Dictionary(text())));
        let pair = Layout::Tuple(vec![Layout::Text, Layout::Fixed(4)]);
        assert_eq!(layout("Map(String, UInt32)"), Some(Layout::Array(Box::new(pair.clone()))));
        assert_eq!(layout("Tuple(a String, `b, c` UInt32)"), Some(pair.clone()));
        assert_eq!(layout("Nested(x String, y Date32)"), Some(Layout::Array(Box::new(pair))));
        assert_eq!(layout("Tuple()"), Some(Layout::Tuple(vec![])));
    }

    #[test]
    fn what_only_values_tell_is_unknown() {
        for name in
            ["AggregateFunction(sum, UInt8)", "Variant(UInt8, String)", "Dynamic", "JSON", "Array(JSON)", "", "("]
        {
            assert_eq!(layout(name), None, "{name}");
        }
        assert_eq!(layout(&"Array(".repeat(10_000)), None);
    }
}
