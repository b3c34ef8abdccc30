//! Key ranges as etcd's requests name them.

use core::ops::Bound;

use ringstone_pager::api::KeyRange;

/// The range of trees that `key` and `range_end` mean: no end is one key, `\0` is all from the key on, and an end at or
/// before the key is nothing.
#[must_use]
pub fn bounds<'a>(key: &'a [u8], range_end: &'a [u8]) -> KeyRange<'a> {
    match range_end {
        [] => (Bound::Included(key), Bound::Included(key)),
        [0] => (Bound::Included(key), Bound::Unbounded),
        _ => (Bound::Included(key), Bound::Excluded(range_end)),
    }
}

/// Whether the range holds no key whatever the state.
#[must_use]
pub fn is_empty(key: &[u8], range_end: &[u8]) -> bool {
    !matches!(range_end, [] | [0]) && range_end <= key
}

/// Whether `probe` lies in the range.
#[must_use]
pub fn contains(key: &[u8], range_end: &[u8], probe: &[u8]) -> bool {
    match range_end {
        [] => probe == key,
        [0] => probe >= key,
        _ => probe >= key && probe < range_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_they_mean_in_etcd() {
        assert!(contains(b"a", b"", b"a") && !contains(b"a", b"", b"aa"));
        assert!(contains(b"a", b"\0", b"zz") && !contains(b"b", b"\0", b"a"));
        assert!(contains(b"a", b"c", b"b") && !contains(b"a", b"c", b"c"));
        assert!(is_empty(b"b", b"a") && is_empty(b"b", b"b") && !is_empty(b"b", b"\0") && !is_empty(b"b", b""));
        assert_eq!(bounds(b"a", b"c"), (Bound::Included(&b"a"[..]), Bound::Excluded(&b"c"[..])));
    }
}
