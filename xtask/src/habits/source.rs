//! A Rust source split into code and comments: enough of the lexer that a `//` in a string is no comment, and a brace
//! in a string or character is no brace.

/// One source file.
#[derive(Debug)]
pub(super) struct Source {
    /// The code, line by line as in the file. Comments and literals are blank.
    pub(super) code: String,
    /// Lines with a comment: number from 1, and the comment's part of that line.
    pub(super) comments: Vec<(usize, String)>,
}

impl Source {
    /// Splits a source.
    pub(super) fn parse(text: &str) -> Self {
        let mut code = String::with_capacity(text.len());
        let mut comments = Vec::new();
        let mut rest = text;
        let mut line = 1;
        while let Some(next) = rest.chars().next() {
            let length = comment(rest).or_else(|| literal(rest));
            let Some(length) = length else {
                code.push(next);
                line += usize::from(next == '\n');
                rest = &rest[next.len_utf8()..];
                // A name that ends with `r` or `b` in front of a string is not its prefix.
                if next.is_alphanumeric() || next == '_' {
                    let end = rest.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(rest.len());
                    code.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
                continue;
            };
            let (piece, after) = rest.split_at(length);
            if piece.starts_with("//") || piece.starts_with("/*") {
                comments.extend(piece.lines().enumerate().map(|(index, text)| (line + index, text.to_owned())));
            }
            line += piece.matches('\n').count();
            code.extend(piece.chars().map(|one| if one == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
        Self { code, comments }
    }
}

/// Length of the comment that `text` starts with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] if depth == 1 => return Some(at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(text.len())
}

/// Length of the string or character that `text` starts with, its prefix included.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| {
            rest.starts_with('"')
                || (prefix.ends_with('r') && rest.trim_start_matches('#').starts_with('"') && rest.starts_with('#'))
                || (matches!(*prefix, "" | "b") && rest.starts_with('\''))
        })
    })?;
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
        let close = format!("\"{}", "#".repeat(hashes));
        let start = hashes + 1;
        return Some(body[start..].find(&close).map_or(text.len(), |end| prefix.len() + start + end + close.len()));
    }
    if let Some(string) = body.strip_prefix('"') {
        return Some(prefix.len() + 1 + escaped(string, '"'));
    }
    let character = &body[1..];
    let mut letters = character.chars();
    let is_lifetime = letters.next().is_some_and(|first| first != '\\') && letters.next() != Some('\'');
    (!is_lifetime).then(|| prefix.len() + 1 + escaped(character, '\''))
}

/// Length up to and with the closing quote.
fn escaped(text: &str, quote: char) -> usize {
    let mut skip = false;
    for (at, next) in text.char_indices() {
        if skip {
            skip = false;
        } else if next == '\\' {
            skip = true;
        } else if next == quote {
            return at + next.len_utf8();
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_in_the_code() {
        let source = Source::parse(concat!(
            "let a = \"// no {\"; // one\n",
            "/* two\n three */ let b = br#\"\"{\"#; let c = '{'; let d: &'static str = \"\\\"\";\n",
            "let for_r = for_r\"x\";\n",
        ));
        let comments: Vec<_> = source.comments.iter().map(|(line, text)| (*line, text.as_str())).collect();
        assert_eq!(comments, [(1, "// one"), (2, "/* two"), (3, " three */")]);
        assert!(!source.code.contains('{'), "{}", source.code);
        assert!(source.code.contains("let d: &'static str ="), "{}", source.code);
        assert_eq!(source.code.lines().count(), 4);
        assert!(source.code.contains("for_r   ;"), "{}", source.code);
    }
}
