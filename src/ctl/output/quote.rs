//! Go's `%q`: a string literal of any bytes.

use std::fmt::Write as _;

pub fn quote(bytes: &[u8]) -> String {
    let mut out = "\"".to_owned();
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|character| push(&mut out, character));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn push(out: &mut String, character: char) {
    let _ = match character {
        '"' | '\\' => write!(out, "\\{character}"),
        '\x07' => out.write_str("\\a"),
        '\x08' => out.write_str("\\b"),
        '\x0c' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\x0b' => out.write_str("\\v"),
        '\0'..' ' | '\x7f' => write!(out, "\\x{:02x}", u32::from(character)),
        ' '..='~' => out.write_char(character),
        _ if is_printable(character) => out.write_char(character),
        '\0'..='\u{ffff}' => write!(out, "\\u{:04x}", u32::from(character)),
        _ => write!(out, "\\U{:08x}", u32::from(character)),
    };
}

/// Behind another character even one that joins it is printed as it is.
fn is_printable(character: char) -> bool {
    ['a', character].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `fmt.Printf("%q")` of Go 1.26 printed them.
    #[test]
    fn literals_are_those_of_go() {
        let cases: [(&[u8], &str); 7] = [
            (b"", r#""""#),
            (b"a'\"\\", r#""a'\"\\""#),
            (b"\x07\x08\x0c\n\r\t\x0b\0\x1f\x7f", r#""\a\b\f\n\r\t\v\x00\x1f\x7f""#),
            ("é日e\u{301}".as_bytes(), "\"é日e\u{301}\""),
            (b"\xc3(\xff", r#""\xc3(\xff""#),
            ("\u{a0}\u{ad}\u{2028}\u{feff}".as_bytes(), r#""\u00a0\u00ad\u2028\ufeff""#),
            ("😀\u{e0001}".as_bytes(), "\"😀\\U000e0001\""),
        ];
        for (bytes, expected) in cases {
            assert_eq!(quote(bytes), expected);
        }
    }
}
