//! How large a package may be. Every figure bounds memory or disk before a byte of the vendor's is trusted.

/// Limits on an archive; a package beyond any of them is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive; it is read into memory.
    pub archive_bytes_max: u64,
    /// Entries, directories included.
    pub entries_max: usize,
    /// Bytes of one entry, uncompressed.
    pub entry_bytes_max: u64,
    /// Bytes of all entries, uncompressed; they are kept in memory.
    pub total_bytes_max: u64,
    /// Uncompressed bytes per compressed byte of one entry. Deflate itself ends near 1,032.
    pub ratio_max: u64,
    /// Below this size, in uncompressed bytes, the ratio is not judged: a short file of zeros harms nobody.
    pub ratio_floor_bytes: u64,
    /// Segments of a path.
    pub depth_max: usize,
    /// Bytes of a path.
    pub name_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes_max: 128 << 20,
            entries_max: 10_000,
            entry_bytes_max: 64 << 20,
            total_bytes_max: 256 << 20,
            ratio_max: 200,
            ratio_floor_bytes: 64 << 10,
            depth_max: 16,
            name_bytes_max: 240,
        }
    }
}
