//! Join codes as six words that can be read out on the telephone.
//!
//! 2,048 words of two syllables are made from fixed letters, so the list needs no file: word = two syllables, a
//! syllable = one of 16 consonants and one of 4 vowels (64 syllables; first syllable from the first 32 of them).
//! Six words carry 66 bits: 60 random ones and 6 check bits, which catch a misheard word before a try is used.

use aws_lc_rs::digest::{SHA256, digest};

const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
const VOWELS: &[u8; 4] = b"aeio";
/// Words of a code.
pub const WORDS: usize = 6;
/// Words of the list.
pub const LIST: u16 = 2048;

/// Why a text is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCode {
    #[error("a join code has six words, this one has {0}; type all six words that add-node printed")]
    Count(usize),
    #[error("{0:?} is not a word of a join code; compare it with what add-node printed")]
    Word(String),
    #[error("the words do not fit together; one of them is not what add-node printed, or two are swapped")]
    Check,
}

/// The word with this number (its low 11 bits).
#[must_use]
pub fn word(number: u16) -> String {
    let number = number % LIST;
    let mut word = String::with_capacity(4);
    for syllable in [number / 64, number % 64] {
        word.push(char::from(CONSONANTS[usize::from(syllable % 16)]));
        word.push(char::from(VOWELS[usize::from(syllable / 16)]));
    }
    word
}

fn number(word: &str) -> Option<u16> {
    let bytes: &[u8; 4] = word.as_bytes().try_into().ok()?;
    let place =
        |list: &[u8], byte: u8| list.iter().position(|b| *b == byte).and_then(|n| u16::try_from(n).ok());
    let mut number = 0;
    for pair in bytes.chunks(2) {
        number = number * 64 + place(VOWELS, pair[1])? * 16 + place(CONSONANTS, pair[0])?;
    }
    (number < LIST).then_some(number)
}

fn check(bits: u64) -> u128 {
    u128::from(digest(&SHA256, &bits.to_be_bytes()).as_ref()[0] >> 2)
}

/// The words of 60 bits.
#[must_use]
pub fn encode(bits: u64) -> String {
    let bits = bits & ((1 << 60) - 1);
    let all = (u128::from(bits) << 6) | check(bits);
    let words: Vec<String> = (0..WORDS)
        .rev()
        .map(|place| word(u16::try_from((all >> (11 * place)) & 2047).unwrap_or(0)))
        .collect();
    words.join(" ")
}

/// The bits of a code, typed in any case, with any spacing or dashes.
///
/// # Errors
/// When it is no code.
pub fn decode(text: &str) -> Result<u64, BadCode> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|w| !w.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    if words.len() != WORDS {
        return Err(BadCode::Count(words.len()));
    }
    let mut all = 0u128;
    for word in &words {
        all = (all << 11) | u128::from(number(word).ok_or_else(|| BadCode::Word(word.clone()))?);
    }
    let bits = u64::try_from(all >> 6).map_err(|_| BadCode::Check)?;
    if check(bits) == all & 63 { Ok(bits) } else { Err(BadCode::Check) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_list_has_2048_different_words_and_each_is_found_again() {
        let words: BTreeSet<String> = (0..LIST).map(word).collect();
        assert_eq!(words.len(), 2048);
        assert!((0..LIST).all(|n| number(&word(n)) == Some(n)));
    }

    #[test]
    fn a_code_survives_case_and_dashes_and_a_wrong_word_is_seen() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, (1 << 60) - 1] {
            let text = encode(bits);
            assert_eq!(decode(&text), Ok(bits));
            assert_eq!(decode(&text.to_uppercase().replace(' ', "-")), Ok(bits));
        }
        let text = encode(42);
        let swapped: Vec<&str> = text.split(' ').rev().collect();
        assert_eq!(decode(&swapped.join(" ")), Err(BadCode::Check));
        assert_eq!(decode("ba ba"), Err(BadCode::Count(2)));
        assert!(matches!(decode("xxxx baba baba baba baba baba"), Err(BadCode::Word(_))));
    }
}
