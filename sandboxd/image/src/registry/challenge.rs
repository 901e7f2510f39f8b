//! `WWW-Authenticate`: what a registry wants to see (RFC 9110, section 11).

/// One challenge of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower case.
    pub scheme: String,
    /// Names in lower case.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Headers that are longer are not read.
const HEADER_MAX: usize = 16 * 1024;

/// The challenges of a header; what is not understood is left out.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header.get(..HEADER_MAX.min(header.len())).unwrap_or_default().trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            // A comma between, or something that cannot be read.
            rest = skip(rest);
            continue;
        }
        let (word, after) = rest.split_at(end);
        let trimmed = after.trim_start();
        if let Some(value) = trimmed.strip_prefix('=').filter(|v| !v.starts_with('=')) {
            let (value, after) = value_of(value.trim_start());
            if let Some(challenge) = found.last_mut() {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = after.trim_start();
        } else {
            found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = trimmed;
        }
    }
    found
}

fn skip(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str().trim_start()
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// A token, or a quoted string with its escapes undone, and what comes after it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_send() {
        let found = parse(
            r#"Bearer realm="https://auth.example/token",service="registry.example", scope="repository:a/b:pull,push""#,
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].get("realm"), Some("https://auth.example/token"));
        assert_eq!(found[0].get("scope"), Some("repository:a/b:pull,push"));
    }

    #[test]
    fn several_in_one_header() {
        let found = parse(r#"Negotiate, Basic realm="a \"b\"", BEARER realm=https://x.example/t,service=s"#);
        let schemes: Vec<_> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(found[1].get("realm"), Some("a \"b\""));
        assert_eq!(found[2].get("realm"), Some("https://x.example/t"));
        assert_eq!(found[2].get("service"), Some("s"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic_or_hang(header in ".{0,200}") {
            let _ = parse(&header);
        }
    }
}
