//! Kubernetes quantities (`10M`, `1.5Gi`, `100k`, `1e6`), as the bandwidth annotations have them.

/// The value, rounded up to a whole number; `None`: no quantity, negative, or beyond u64.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let number = text.strip_prefix('+').unwrap_or(text);
    let split = number.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(number.len());
    let (digits, suffix) = number.split_at_checked(split)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    // value = mantissa * multiplier / divisor, all exact.
    let joined = format!("{whole}{fraction}");
    let mantissa: u128 = joined.parse().ok()?;
    let (multiplier, shrink) = scale(suffix)?;
    let divisor = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(shrink)?;
    u64::try_from(mantissa.checked_mul(multiplier)?.div_ceil(divisor)).ok()
}

fn scale(suffix: &str) -> Option<(u128, u128)> {
    let decimal = |power: u32| Some((10u128.pow(power), 1));
    let binary = |power: u32| Some((1u128 << power, 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10u128.checked_pow(power.unsigned_abs().min(30))?;
            Some(if power < 0 { (1, ten) } else { (ten, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities() {
        for (text, value) in [
            ("10M", 10_000_000),
            ("1.5Gi", 1_610_612_736),
            ("100k", 100_000),
            ("1e6", 1_000_000),
            ("2E3", 2_000),
            ("1E", 1_000_000_000_000_000_000),
            ("0.0005k", 1),
            ("1500m", 2),
            (".5k", 500),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for text in ["", "M", "-1", "1.2.3", "10Q", "1e", "99E", "1 k", "."] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
