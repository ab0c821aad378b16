//! A Rust file as the checks see it: its text, and its code with comments and literals blanked.
//!
//! Owns: knowing what is code, what is text and what is a test.
//! Must never do: parse Rust further than strings, comments and braces.
//! Invariants: `code` has the same bytes per line as `text`, so positions carry over.

/// One Rust file.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Relative to the root, with `/`.
    pub(super) path: String,
    /// As it stands in the file.
    pub(super) text: String,
    /// The text with comments, strings and characters replaced by spaces.
    pub(super) code: String,
    /// Per line: whether it belongs to a test.
    test_lines: Vec<bool>,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let whole = path.contains("/tests/") || path.contains("/benches/");
        let mut test_lines = vec![whole; text.lines().count() + 1];
        for (start, end) in test_blocks(&code) {
            let first = line_of(&code, start);
            let last = line_of(&code, end);
            for flag in test_lines.iter_mut().take(last).skip(first - 1) {
                *flag = true;
            }
        }
        Self { path: path.to_owned(), text: text.to_owned(), code, test_lines }
    }

    /// Whether the 1-based `line` belongs to a test.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line.saturating_sub(1)).copied().unwrap_or(false)
    }

    /// The 1-based line of a byte position.
    pub(super) fn line_of(&self, at: usize) -> usize {
        line_of(&self.code, at)
    }

    /// How many lines are not tests.
    pub(super) fn line_count_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|line| !self.is_test(*line)).count()
    }

    /// Every path such as `std::fs::File` that is named, with `use` groups spelled out.
    pub(super) fn paths(&self) -> Vec<(usize, String)> {
        let tokens = tokens(&self.code);
        let mut found = Vec::new();
        let mut at = 0;
        while let Some((position, token)) = tokens.get(at) {
            if is_word(token) {
                let line = self.line_of(*position);
                at = read_path(&tokens, at, String::new(), line, self, &mut found);
            } else {
                at += 1;
            }
        }
        found
    }
}

/// Marks the files that are declared by `#[cfg(test)] mod name;` as tests from end to end.
pub(super) fn mark_test_files(sources: &mut [Source]) {
    let mut test_files = Vec::new();
    for source in sources.iter() {
        let (folder, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let inner = match name {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            other => format!("{folder}/{}", other.trim_end_matches(".rs")),
        };
        for module in test_modules(&source.code) {
            test_files.push(format!("{inner}/{module}.rs"));
            test_files.push(format!("{inner}/{module}/"));
        }
    }
    for source in sources {
        let is_test = |file: &String| source.path == *file || source.path.starts_with(file);
        if test_files.iter().any(is_test) {
            source.test_lines.fill(true);
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// Replaces comments and literals by spaces, byte for byte, keeping line ends.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + skip(bytes.get(at..).unwrap_or_default(), preceded_by_word(bytes, at));
        if end == at {
            at += 1;
            continue;
        }
        for byte in out.iter_mut().take(end).skip(at) {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn preceded_by_word(bytes: &[u8], at: usize) -> bool {
    at.checked_sub(1).and_then(|before| bytes.get(before)).is_some_and(|byte| is_word_byte(*byte))
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The size of the comment or literal at the front of `rest`, 0 when there is none.
fn skip(rest: &[u8], after_word: bool) -> usize {
    match rest {
        [b'/', b'/', ..] => rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => skip_block_comment(rest),
        [b'"', ..] => skip_string(rest),
        [b'b' | b'c', b'"', tail @ ..] if !after_word => 2 + skip_open_string(tail),
        [b'r', tail @ ..] if !after_word => skip_raw(tail).map_or(0, |size| 1 + size),
        [b'b' | b'c', b'r', tail @ ..] if !after_word => skip_raw(tail).map_or(0, |size| 2 + size),
        [b'\'', tail @ ..] => skip_character(tail).map_or(0, |size| 1 + size),
        _ => 0,
    }
}

fn skip_block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(tail) = rest.get(at..) {
        match tail {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            [] => break,
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn skip_string(rest: &[u8]) -> usize {
    1 + skip_open_string(rest.get(1..).unwrap_or_default())
}

/// The size of a string whose opening quote has been read, with its closing quote.
fn skip_open_string(rest: &[u8]) -> usize {
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The size of a raw string after its `r`.
fn skip_raw(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    if rest.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let body = rest.get(hashes + 1..)?;
    let end = body.windows(close.len()).position(|window| window == close);
    Some(end.map_or(rest.len(), |end| hashes + 1 + end + close.len()))
}

/// The size of a character after its opening quote, or none when the quote opens a lifetime.
fn skip_character(rest: &[u8]) -> Option<usize> {
    if rest.first() == Some(&b'\\') {
        let end = rest.iter().skip(2).position(|byte| *byte == b'\'')?;
        return Some(end + 3);
    }
    // At most four bytes of UTF-8, and a lifetime has no quote after its first character.
    let text = std::str::from_utf8(rest.get(..rest.len().min(8))?);
    let text = text.unwrap_or_else(|error| {
        let valid = rest.get(..error.valid_up_to()).unwrap_or_default();
        std::str::from_utf8(valid).unwrap_or_default()
    });
    let first = text.chars().next()?.len_utf8();
    (rest.get(first) == Some(&b'\'')).then_some(first + 1)
}

/// The end of the block that opens at the first `{` from `at`, just after its `}`.
pub(super) fn block_end(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (position, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(position + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Start and end of every attribute that configures for tests.
fn test_attributes(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, _) in code.match_indices("#[cfg(") {
        let Some(size) = code.get(start..).and_then(|rest| rest.find(']')) else { continue };
        let attribute = code.get(start..start + size).unwrap_or_default();
        let words = attribute.split(|c: char| !c.is_alphanumeric() && c != '_');
        let (mut test, mut not) = (false, false);
        words.for_each(|word| {
            test |= word == "test";
            not |= word == "not";
        });
        if test && !not {
            found.push((start, start + size + 1));
        }
    }
    found
}

/// What follows a test attribute: a block, or a declaration that ends with a semicolon.
fn test_blocks(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, end) in test_attributes(code) {
        let rest = code.get(end..).unwrap_or_default();
        let open = rest.find('{').unwrap_or(rest.len());
        let semicolon = rest.find(';').unwrap_or(rest.len());
        let item_end = match semicolon < open {
            true => Some(end + semicolon),
            false => block_end(code, end),
        };
        found.push((start, item_end.unwrap_or(code.len())));
    }
    found
}

/// The names of modules declared as `#[cfg(test)] mod name;`.
fn test_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, end) in test_attributes(code) {
        let rest = code.get(end..).unwrap_or_default();
        let item = rest.split([';', '{']).next().unwrap_or_default();
        let declared = rest.get(item.len()..).is_some_and(|tail| tail.starts_with(';'));
        let mut words = item.split_whitespace().rev();
        if let (true, Some(name), Some("mod")) = (declared, words.next(), words.next()) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Words, `::` and single marks, with their positions.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let size = if is_word_byte(*byte) {
            bytes.iter().skip(at).take_while(|byte| is_word_byte(**byte)).count()
        } else if bytes.get(at..at + 2) == Some(b"::") {
            2
        } else {
            1
        };
        if let Some(token) = code.get(at..at + size)
            && !token.trim().is_empty()
        {
            found.push((at, token));
        }
        at += size;
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// Reads the path at `at`, groups included, and returns where it ends.
fn read_path(
    tokens: &[(usize, &str)],
    mut at: usize,
    mut path: String,
    line: usize,
    source: &Source,
    found: &mut Vec<(usize, String)>,
) -> usize {
    while let Some((_, word)) = tokens.get(at) {
        if !is_word(word) {
            break;
        }
        path.push_str(word);
        at += 1;
        if tokens.get(at).map(|(_, token)| *token) != Some("::") {
            break;
        }
        at += 1;
        if tokens.get(at).map(|(_, token)| *token) == Some("{") {
            return read_group(tokens, at + 1, &path, source, found);
        }
        path.push_str("::");
    }
    found.push((line, path.trim_end_matches("::").to_owned()));
    at
}

/// Reads `a, b::c, {..}` up to the closing brace, each below `prefix`.
fn read_group(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &str,
    source: &Source,
    found: &mut Vec<(usize, String)>,
) -> usize {
    while let Some((position, token)) = tokens.get(at) {
        if *token == "}" {
            return at + 1;
        }
        let line = source.line_of(*position);
        if is_word(token) && *token != "as" {
            at = read_path(tokens, at, format!("{prefix}::"), line, source, found);
        } else {
            at += 1;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_positions_kept() {
        let table = [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x \" y") + 1"#, "f(        ) + 1"),
            ("r#\"a \"b\"# x", "          x"),
            (r"'a' '\'' 'a: b", "         'a: b"),
            ("br\"x\" bar\"", "      bar "),
        ];
        for (text, want) in table {
            assert_eq!(blank(text), want, "{text}");
        }
        assert_eq!(blank("'é' x").trim(), "x");
    }

    #[test]
    fn tests_are_recognized() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::new("net/x/src/lib.rs", text);
        let flags: Vec<bool> = (1..=6).map(|line| source.is_test(line)).collect();
        assert_eq!(flags, [false, true, true, true, true, false]);
        assert_eq!(source.line_count_without_tests(), 2);
        assert!(Source::new("net/x/tests/a.rs", "fn a() {}").is_test(1));
        let shipped = Source::new("net/x/src/lib.rs", "#[cfg(not(test))]\nfn a() {}\n");
        assert!(!shipped.is_test(2));
    }

    #[test]
    fn files_declared_for_tests_are_tests() {
        let mut sources = [
            Source::new("a/b/src/mod.rs", "#[cfg(test)]\nmod proof;\nmod real;"),
            Source::new("a/b/src/proof.rs", "fn a() {}"),
            Source::new("a/b/src/proof/deep.rs", "fn a() {}"),
            Source::new("a/b/src/real.rs", "fn a() {}"),
        ];
        mark_test_files(&mut sources);
        let flags: Vec<bool> = sources.iter().map(|source| source.is_test(1)).collect();
        assert_eq!(flags, [true, true, true, false]);
    }

    #[test]
    fn paths_are_spelled_out() {
        let text = "use std::{fs, net::{TcpStream, IpAddr}, io as x};\nlet a = time::now();";
        let source = Source::new("a.rs", text);
        let paths: Vec<String> = source.paths().into_iter().map(|(_, path)| path).collect();
        for want in ["std::fs", "std::net::TcpStream", "std::net::IpAddr", "std::io", "time::now"] {
            assert!(paths.iter().any(|path| path == want), "{want} in {paths:?}");
        }
    }
}
