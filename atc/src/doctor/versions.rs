//! Versions and the ranges that installed parts require of each other.

/// The numbers of a version: `7.7.0.1.238`.
pub(super) fn numbers(version: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for part in version.trim().trim_matches('"').split('.') {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let Ok(number) = part[..end].parse() else { break };
        found.push(number);
        if end < part.len() {
            break;
        }
    }
    found
}

/// Whether a version is in a range as `version.info` writes them: `7.7`, or `>=7.6, <=7.7`, which compare as many numbers as
/// they name. None where the range or the version cannot be read.
pub(super) fn is_in(version: &str, range: &str) -> Option<bool> {
    let have = numbers(version);
    if have.is_empty() {
        return None;
    }
    let mut within = true;
    for bound in range.trim().trim_matches('"').split(',') {
        let bound = bound.trim();
        let end = bound.find(|c: char| c.is_ascii_digit())?;
        let (relation, wanted) = (bound[..end].trim(), numbers(&bound[end..]));
        if wanted.is_empty() {
            return None;
        }
        let same = &have[..have.len().min(wanted.len())];
        let order = same.cmp(&wanted[..wanted.len().min(have.len())]);
        within &= match relation {
            "" | "=" | "==" => order.is_eq(),
            ">=" => order.is_ge(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            "<" => order.is_lt(),
            _ => return None,
        };
    }
    Some(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_compare_what_they_name() {
        assert_eq!(is_in("7.7.0.1.238", "\"7.7\""), Some(true));
        assert_eq!(is_in("7.6.0.1", "7.7"), Some(false));
        assert_eq!(is_in("7.7.0", ">=7.6, <=7.7"), Some(true));
        assert_eq!(is_in("6.2", ">=6.3, <=7.7"), Some(false));
        assert_eq!(is_in("10.0", ">=9"), Some(true));
        assert_eq!(is_in("", "7.7"), None);
        assert_eq!(is_in("7.7", "some"), None);
    }
}
