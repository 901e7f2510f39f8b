//! Words on standard output, wrapped.

use std::io::Write;

/// Lines are no longer than this, in characters.
const WIDTH: usize = 79;

/// Everything goes through here: a reader that went away (`demo | head`) is no reason to stop before the
/// clean-up.
fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

pub fn blank() {
    put("");
}

/// An act's heading.
pub fn heading(number: u8, title: &str) {
    put(&format!("\n{number}  {title}\n   {}", "─".repeat(title.chars().count())));
}

/// A paragraph.
pub fn line(text: &str) {
    wrapped("   ", "   ", text);
}

/// An item of a list.
pub fn item(text: &str) {
    wrapped("     ", "       ", text);
}

/// A name and its words; nothing where there are none.
pub fn field(name: &str, text: &str) {
    if !text.is_empty() {
        wrapped(&format!("     {name:<9} "), &" ".repeat(15), text);
    }
}

/// Text as it is.
pub fn raw(text: &str) {
    put(text);
}

fn wrapped(first: &str, rest: &str, text: &str) {
    for paragraph in text.lines() {
        let mut line = first.to_owned();
        let mut empty = true;
        for word in paragraph.split_whitespace() {
            if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
                put(&line);
                rest.clone_into(&mut line);
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
        put(&line);
    }
}
