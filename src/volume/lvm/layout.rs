//! Where parity lies in RAID 4, 5 and 6: the algorithms of `drivers/md/raid5.c` under the names of dm-raid.

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One parity.
    Five(Walk),
    /// Two parities, always on the last two members.
    LastTwo,
    /// RAID 6 whose second parity is the last member, the rest a RAID 5.
    FiveAndLast(Walk),
    /// RAID 6 as in SNIA's DDF: from the first member on, each row anew.
    ZeroRestart,
    /// From the last member on, each row anew.
    NRestart,
    /// From the last member on, data continuing after the parity.
    NContinue,
}

/// How the parity of RAID 5 walks over the members, and where data begins beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    LeftAsymmetric,
    RightAsymmetric,
    LeftSymmetric,
    RightSymmetric,
    /// Always on the first member.
    First,
    /// Always on the last.
    Last,
}

/// The members that one chunk of data needs: itself, and the second parity of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) data: u64,
    pub(super) second: Option<u64>,
}

impl Layout {
    /// By dm-raid's name of it (`Documentation/admin-guide/device-mapper/dm-raid.rst`).
    pub(super) fn by_name(name: &str) -> Option<Self> {
        use Walk::{First, Last, LeftAsymmetric, LeftSymmetric, RightAsymmetric, RightSymmetric};
        Some(match name {
            "raid4" => Self::Five(First),
            "raid5_n" => Self::Five(Last),
            "raid5" | "raid5_ls" => Self::Five(LeftSymmetric),
            "raid5_la" => Self::Five(LeftAsymmetric),
            "raid5_rs" => Self::Five(RightSymmetric),
            "raid5_ra" => Self::Five(RightAsymmetric),
            "raid6" | "raid6_zr" => Self::ZeroRestart,
            "raid6_nr" => Self::NRestart,
            "raid6_nc" => Self::NContinue,
            "raid6_n_6" => Self::LastTwo,
            "raid6_ls_6" => Self::FiveAndLast(LeftSymmetric),
            "raid6_la_6" => Self::FiveAndLast(LeftAsymmetric),
            "raid6_rs_6" => Self::FiveAndLast(RightSymmetric),
            "raid6_ra_6" => Self::FiveAndLast(RightAsymmetric),
            _ => return None,
        })
    }

    /// Parities in a row.
    pub(super) fn parities(self) -> u64 {
        if matches!(self, Self::Five(_)) { 1 } else { 2 }
    }

    /// Where data chunk `nth` of `row` lies among `count` members. None for numbers that make no array.
    pub(super) fn spot(self, count: u64, row: u64, nth: u64) -> Option<Spot> {
        let last = count.checked_sub(1)?;
        let turn = row.checked_rem(count)?;
        Some(match self {
            Self::Five(walk) => Spot { data: five(walk, count, row, nth)?, second: None },
            Self::FiveAndLast(walk) => Spot { data: five(walk, last, row, nth)?, second: Some(last) },
            Self::LastTwo => Spot { data: nth, second: Some(last) },
            Self::ZeroRestart => restart(count, turn, nth)?,
            Self::NRestart => {
                let turn = row.checked_add(1)?.checked_rem(count)?;
                restart(count, last.checked_sub(turn)?, nth)?
            }
            Self::NContinue => {
                let first = last.checked_sub(turn)?;
                Spot {
                    data: first.checked_add(1)?.checked_add(nth)?.checked_rem(count)?,
                    second: Some(first.checked_add(last)?.checked_rem(count)?),
                }
            }
        })
    }
}

/// Data after both parities, or around them where the first parity is the last member.
fn restart(count: u64, first: u64, nth: u64) -> Option<Spot> {
    if first == count.checked_sub(1)? {
        return Some(Spot { data: nth.checked_add(1)?, second: Some(0) });
    }
    let data = if nth >= first { nth.checked_add(2)? } else { nth };
    Some(Spot { data, second: Some(first.checked_add(1)?) })
}

/// RAID 5 over `count` members.
fn five(walk: Walk, count: u64, row: u64, nth: u64) -> Option<u64> {
    let last = count.checked_sub(1)?;
    let turn = row.checked_rem(count)?;
    let beside = |parity: u64| if nth >= parity { nth.checked_add(1) } else { Some(nth) };
    let after = |parity: u64| parity.checked_add(1)?.checked_add(nth)?.checked_rem(count);
    match walk {
        Walk::LeftAsymmetric => beside(last.checked_sub(turn)?),
        Walk::RightAsymmetric => beside(turn),
        Walk::LeftSymmetric => after(last.checked_sub(turn)?),
        Walk::RightSymmetric => after(turn),
        Walk::First => nth.checked_add(1),
        Walk::Last => Some(nth),
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "the numbers of a test are known")]
mod tests {
    use super::*;

    /// The tables of SNIA's DDF 2.0 and of the kernel's documentation, a row a line: `P` and `Q` and the chunks' numbers.
    #[test]
    fn layouts_are_those_of_the_tables() {
        type Case = (&'static str, &'static [&'static str]);
        let cases: &[Case] = &[
            ("raid5_la", &["0 1 2 P", "3 4 P 5", "6 P 7 8", "P 9 10 11"]),
            ("raid5_ra", &["P 0 1 2", "3 P 4 5", "6 7 P 8", "9 10 11 P"]),
            ("raid5_ls", &["0 1 2 P", "4 5 P 3", "8 P 6 7", "P 9 10 11"]),
            ("raid5_rs", &["P 0 1 2", "5 P 3 4", "7 8 P 6", "9 10 11 P"]),
            ("raid4", &["P 0 1 2", "P 3 4 5"]),
            ("raid5_n", &["0 1 2 P", "3 4 5 P"]),
            ("raid6_zr", &["P Q 0 1", "2 P Q 3", "4 5 P Q", "Q 6 7 P", "P Q 8 9"]),
            ("raid6_nr", &["0 1 P Q", "2 P Q 3", "P Q 4 5", "Q 6 7 P", "8 9 P Q"]),
            ("raid6_nc", &["0 1 Q P", "3 Q P 2", "Q P 4 5", "P 6 7 Q", "8 9 Q P"]),
            ("raid6_n_6", &["0 1 P Q", "2 3 P Q"]),
            ("raid6_ls_6", &["0 1 P Q", "3 P 2 Q", "P 4 5 Q"]),
        ];
        for (name, rows) in cases {
            let layout = Layout::by_name(name).unwrap();
            for (row, line) in rows.iter().enumerate() {
                let cells: Vec<&str> = line.split(' ').collect();
                let data = cells.len() as u64 - layout.parities();
                for nth in 0..data {
                    let spot = layout.spot(4, row as u64, nth).unwrap();
                    let chunk = (row as u64 * data + nth).to_string();
                    assert_eq!(cells[usize::try_from(spot.data).unwrap()], chunk, "{name} row {row}");
                    if let Some(second) = spot.second {
                        assert_eq!(cells[usize::try_from(second).unwrap()], "Q", "{name} row {row}");
                    }
                }
            }
        }
    }
}
