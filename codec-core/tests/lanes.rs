//! Section 4: the coder and its inverse.

use proptest::prelude::*;
use speckv_codec_core::lanes::{LaneEncoder, Lanes, Symbol};
use speckv_codec_core::{Error, Rule};

mod common;
use common::Random;

enum Run {
    Symbols(Vec<Symbol>),
    Raw(Vec<u16>, u32),
}

fn symbol(random: &mut Random) -> Symbol {
    let freq = match random.below(4) {
        0 => 1,
        1 => 65535,
        2 => 1 << random.below(16),
        _ => random.range(1, 65535),
    } as u32;
    let start = match random.below(3) {
        0 => 0,
        1 => 65536 - freq,
        _ => random.below(u64::from(65536 - freq) + 1) as u32,
    };
    let raw_bits = if random.below(2) == 0 { 0 } else { random.range(0, 16) as u16 };
    let raw = (random.next() & ((1 << raw_bits) - 1)) as u16;
    Symbol { start: start as u16, freq: freq as u16, raw, raw_bits }
}

fn bytes(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn decode(runs: &[Run], lanes: &mut Lanes<'_>) -> Result<(), TestCaseError> {
    for run in runs {
        match run {
            Run::Raw(codes, width) => {
                let mut out = vec![7; codes.len()];
                lanes.decode_raw(*width, &mut out).unwrap();
                prop_assert_eq!(&out, codes);
            }
            Run::Symbols(symbols) => {
                for row in symbols.chunks(32) {
                    for (lane, symbol) in row.iter().enumerate() {
                        let slot = lanes.states[lane] & 0xFFFF;
                        let (start, freq) = (u32::from(symbol.start), u32::from(symbol.freq));
                        prop_assert!((start..start + freq).contains(&slot));
                        lanes.advance(lane, start, freq);
                        prop_assert!(lanes.states[lane] >= 1 << 16);
                    }
                    for (lane, symbol) in row.iter().enumerate().filter(|(_, symbol)| symbol.raw_bits > 0) {
                        let raw = lanes.take_raw(lane, symbol.raw_bits.into());
                        prop_assert_eq!(raw, u32::from(symbol.raw));
                    }
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(common::cases(256))]

    #[test]
    fn what_goes_in_comes_out(seed in any::<u64>(), count in 1usize..5) {
        let mut random = Random(seed);
        let runs: Vec<Run> = (0..count).map(|_| {
            let len = random.range(1, 400) as usize;
            if random.below(3) == 0 {
                let width = if random.below(2) == 0 { 8 } else { 16 };
                Run::Raw((0..len).map(|_| (random.next() & ((1 << width) - 1)) as u16).collect(), width)
            } else {
                Run::Symbols((0..len).map(|_| symbol(&mut random)).collect())
            }
        }).collect();
        let mut encoder = LaneEncoder::new();
        for run in runs.iter().rev() {
            match run {
                Run::Symbols(symbols) => encoder.push_symbols(symbols),
                Run::Raw(codes, width) => encoder.push_raw(codes, *width),
            }
        }
        let (states, words) = encoder.finish();
        prop_assert!(states.iter().all(|&state| state >= 1 << 16));
        let words = bytes(&words);
        let mut lanes = Lanes::new(states, &words);
        decode(&runs, &mut lanes)?;
        prop_assert_eq!(lanes.check_end(), Ok(()));
    }
}

#[test]
fn the_end_is_checked() {
    let mut encoder = LaneEncoder::new();
    encoder.push_raw(&[1, 2, 3], 16);
    let (states, words) = encoder.finish();
    assert_eq!(words.len(), 3);
    let words = bytes(&words);
    let mut out = [0; 3];
    let mut short = Lanes::new(states, &words[..4]);
    assert_eq!(short.decode_raw(16, &mut out), Err(Error::Truncated { offset: 4, needed: 2, found: 0 }));
    let mut unread = Lanes::new(states, &words);
    unread.decode_raw(16, &mut out[..2]).unwrap();
    assert_eq!(unread.check_end(), Err(Error::Malformed { rule: Rule::WordsLeft, found: 1, offset: 4 }));
    let mut other = states;
    other[9] += 1;
    let mut other = Lanes::new(other, &words);
    other.decode_raw(16, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3]);
    assert_eq!(other.check_end(), Err(Error::Malformed { rule: Rule::FinalState, found: 65537, offset: 6 }));
}
