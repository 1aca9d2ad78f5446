//! Long files and functions, as a report; nothing fails.

use super::tree::Tree;

/// Lines of a file above which it is listed.
const FILE: usize = 500;
/// Lines of a function above which it is listed.
const FUNCTION: usize = 100;

/// Prints the lists, longest first.
pub(super) fn print(tree: &Tree) {
    let mut files: Vec<(usize, &str)> = tree.files("rs").map(|(path, text)| (text.lines().count(), path)).collect();
    let mut functions: Vec<(usize, String)> = Vec::new();
    for (path, source) in tree.sources() {
        let found = of_functions(&source.code);
        functions.extend(found.into_iter().map(|(name, line, length)| (length, format!("{path}:{line} {name}"))));
    }
    files.sort_unstable_by(|one, other| other.cmp(one));
    functions.sort_unstable_by(|one, other| other.cmp(one));
    println!(
        "\n{} files, {} functions in {} lines",
        files.len(),
        functions.len(),
        files.iter().map(|row| row.0).sum::<usize>()
    );
    println!("files over {FILE} lines, and the longest three:");
    for (index, (lines, path)) in files.iter().enumerate() {
        if index < 3 || *lines > FILE {
            println!("  {lines:5} {path}");
        }
    }
    println!("functions over {FUNCTION} lines, and the longest three:");
    for (index, (lines, place)) in functions.iter().enumerate() {
        if index < 3 || *lines > FUNCTION {
            println!("  {lines:5} {place}");
        }
    }
}

/// Name, first line and length in lines of each function with a body.
fn of_functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut functions = Vec::new();
    for (start, _) in code.match_indices("fn ") {
        let is_word = code[..start].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        let after = &code[start + 3..];
        let end = after.find(|next: char| !next.is_alphanumeric() && next != '_').unwrap_or(after.len());
        if !is_word || end == 0 {
            continue;
        }
        // The body is the first brace outside of brackets; a `;` there ends a declaration without one.
        let (mut brackets, mut braces, mut body_end) = (0_i32, 0_i32, None);
        for (at, next) in after.char_indices() {
            match next {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                ';' if brackets == 0 && braces == 0 => break,
                '{' if brackets == 0 => braces += 1,
                '}' if brackets == 0 => {
                    braces -= 1;
                    if braces == 0 {
                        body_end = Some(at);
                        break;
                    }
                }
                _ => {}
            }
        }
        if let Some(at) = body_end {
            let line = code[..start].matches('\n').count() + 1;
            functions.push((after[..end].to_owned(), line, after[..at].matches('\n').count() + 1));
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let code = "fn a(x: [u8; 3]) -> u8 {\n    if x {\n        f(|| { 1 })\n    }\n}\ntrait T { fn b();\n    fn c() {} }\nlet often = 1;\n";
        let names = of_functions(code);
        assert_eq!(names, [("a".to_owned(), 1, 5), ("c".to_owned(), 7, 1)]);
    }
}
