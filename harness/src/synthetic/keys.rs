//! Numbers that are functions of a row's number: random ones, bijections, and which parent a row belongs to.
//!
//! Called by `plan` and `row`. Nothing here has state, so that any writer can make any row.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// The exponent of popularity; see [`super::Filled::skew`].
pub(super) const SKEW: u32 = 3;

/// A bijection of 64-bit numbers that leaves no visible pattern: the finaliser of splitmix64.
pub(super) const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number in `0..size` from a random one; without a division.
pub(super) const fn below(random: u64, size: u64) -> u64 {
    ((random as u128 * size as u128) >> 64) as u64
}

/// The keys of a table's columns: drawn from the seed in a stream of the table's own, so that a table's rows do not depend
/// on which other tables there are.
pub(super) fn column_keys(seed: u64, relation: &str, count: usize) -> Vec<u64> {
    // FNV-1a: the name must mean the same number in every build.
    let stream = relation.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(stream);
    (0..count).map(|_| random.next_u64()).collect()
}

/// A bijection of `0..size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Permutation {
    size: u64,
    factor: u64,
    shift: u64,
}

impl Permutation {
    /// One of the many, by a key.
    pub(super) fn new(size: u64, key: u64) -> Self {
        let size = size.max(1);
        // Near the golden section neighbours land far from each other.
        let mut factor =
            ((u128::from(size) * 618_033_989) / 1_000_000_000) as u64 + below(mix(key), size / 16 + 1);
        factor = factor.max(1);
        while divisor(factor, size) != 1 {
            factor += 1;
        }
        Self { size, factor: factor % size.max(2), shift: below(key, size) }
    }

    /// Where `index`, taken modulo the size, goes.
    pub(super) const fn at(self, index: u64) -> u64 {
        let index = index % self.size;
        if self.size <= 1 << 31 {
            (index * self.factor + self.shift) % self.size
        } else {
            ((index as u128 * self.factor as u128 + self.shift as u128) % self.size as u128) as u64
        }
    }
}

const fn divisor(left: u64, right: u64) -> u64 {
    let (mut left, mut right) = (left, right);
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
}

/// A parent's rank from a random number: small ranks are popular.
pub(super) fn popular(random: u64, parents: u64) -> u64 {
    // 53 bits are what a float holds.
    let share = (random >> 11) as f64 / (1_u64 << 53) as f64;
    let rank = share * share * share * parents as f64;
    (rank as u64).min(parents.saturating_sub(1))
}

/// Children dealt out to parents: each row has a parent, and a rank among that parent's rows. Both together are unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deal {
    rows: u64,
    parents: u64,
    exponent: u32,
}

impl Deal {
    /// The most uneven one in which no parent has more rows than `rank_max`.
    pub(super) fn new(rows: u64, parents: u64, rank_max: u64) -> Self {
        let deal = |exponent| Self { rows: rows.max(1), parents: parents.max(1), exponent };
        (2..=SKEW).rev().map(deal).find(|deal| deal.most() <= rank_max).unwrap_or_else(|| deal(1))
    }

    /// The parent of a row, and its rank there.
    pub(super) fn at(self, row: u64) -> (u64, u64) {
        let row = row % self.rows;
        let parent = self.parent(row);
        (parent, row - self.first(parent))
    }

    /// Rows of the parent that has most.
    fn most(self) -> u64 {
        // The first parent has most, up to what rounding moves.
        (0..self.parents.min(3)).map(|parent| self.first(parent + 1) - self.first(parent)).max().unwrap_or(0)
    }

    fn parent(self, row: u64) -> u64 {
        let (row, rows) = (u128::from(row), u128::from(self.rows));
        let parents = u128::from(self.parents);
        // Powers below 2^30 rows fit; above, the share is rounded first.
        let parent = if self.rows < 1 << 30 {
            row.pow(self.exponent) * parents / rows.pow(self.exponent)
        } else {
            let share = (row << 31) / rows;
            (share.pow(self.exponent) * parents) >> (31 * self.exponent)
        };
        (parent as u64).min(self.parents - 1)
    }

    /// The first row of a parent; the number of rows for the one after the last.
    fn first(self, parent: u64) -> u64 {
        if parent >= self.parents {
            return self.rows;
        }
        let share = (parent as f64 / self.parents as f64).powf(1.0 / f64::from(self.exponent));
        let mut row = ((share * self.rows as f64) as u64).min(self.rows);
        // The float is a guess; the integers decide.
        while row > 0 && self.parent(row - 1) >= parent {
            row -= 1;
        }
        while row < self.rows && self.parent(row) < parent {
            row += 1;
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Deal, Permutation, column_keys, popular};

    proptest! {
        #[test]
        fn a_permutation_meets_every_number_once(size in 1_u64..3_000, key: u64) {
            let permutation = Permutation::new(size, key);
            let met: BTreeSet<u64> = (0..size).map(|index| permutation.at(index)).collect();
            prop_assert_eq!(met.len() as u64, size);
            prop_assert!(met.iter().all(|index| *index < size));
        }

        #[test]
        fn a_deal_gives_no_pair_twice_and_no_rank_above_the_limit(rows in 1_u64..2_000, parents in 1_u64..300, rank_max in 1_u64..50) {
            prop_assume!(rows <= parents * rank_max);
            let deal = Deal::new(rows, parents, rank_max);
            let met: BTreeSet<(u64, u64)> = (0..rows).map(|row| deal.at(row)).collect();
            prop_assert_eq!(met.len() as u64, rows);
            prop_assert!(met.iter().all(|(parent, rank)| *parent < parents && *rank < rank_max));
        }
    }

    #[test]
    fn a_large_permutation_stays_in_its_bounds() {
        let size = (1 << 40) + 7;
        let permutation = Permutation::new(size, 99);
        let met: BTreeSet<u64> = (0..1_000).map(|index| permutation.at(index)).collect();
        assert_eq!(met.len(), 1_000);
        assert!(met.iter().all(|index| *index < size));
    }

    #[test]
    fn the_first_tenth_of_the_parents_has_nearly_half_of_the_children() {
        let children = 10_000;
        let draw = |row| popular(super::mix(row), 1_000);
        let of_first_tenth = (0..children).filter(|row| draw(*row) < 100).count();
        assert!((4_200..5_100).contains(&of_first_tenth), "{of_first_tenth}");
        assert!((0..children).all(|row| draw(row) < 1_000));
    }

    #[test]
    fn keys_depend_on_seed_and_name_alone() {
        assert_eq!(column_keys(1, "public.a", 2), column_keys(1, "public.a", 3)[..2]);
        assert_ne!(column_keys(1, "public.a", 2), column_keys(2, "public.a", 2));
        assert_ne!(column_keys(1, "public.a", 2), column_keys(1, "public.b", 2));
    }
}
