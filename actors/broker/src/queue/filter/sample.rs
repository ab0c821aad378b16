//! Records and expressions for the tests of filters.

use super::Facts;
use super::expression::{Condition, Operand, Place};
use super::name::Name;
use super::number::Number;
use super::relation::Relation;
use crate::queue::dice::Dice;

/// What a filter may ask of a record, as a list.
#[derive(Clone, Debug, Default)]
pub(super) struct Record<'a> {
    pub(super) tags: Vec<&'a str>,
    pub(super) routing_key: Option<&'a str>,
    pub(super) headers: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Record<'a> {
    /// Reads `name=value name=value`.
    pub(super) fn with_headers(headers: &'a str) -> Self {
        let headers = headers.split(' ').filter_map(|header| header.split_once('='));
        let headers = headers.map(|(name, value)| (name, value.as_bytes())).collect();
        Self { headers, ..Self::default() }
    }
}

impl Facts for Record<'_> {
    fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.iter().copied()
    }

    fn routing_key(&self) -> Option<&str> {
        self.routing_key
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().rfind(|(header, _)| *header == name).map(|(_, value)| *value)
    }
}

/// Headers of [`condition`].
pub(super) const NAMES: [&str; 5] = ["a", "price", "x-death", "not", "q\"uote"];
const TEXTS: [&str; 7] = ["1", "0", "it's", "true", "\"q\"", "''", "红 || (x"];
const NUMBERS: [&str; 7] = ["0", "1", "-2.5", "1000", "1e300", "-9223372036854775808", "0.001"];

/// Any of them.
pub(super) fn one<T: Copy>(dice: &mut Dice, sides: &[T]) -> T {
    let side = sides.get(dice.below(sides.len() as u64) as usize);
    *side.unwrap_or_else(|| unreachable!("a dice shows one of its sides"))
}

fn name(dice: &mut Dice) -> Name {
    let name = Name::new(one(dice, &NAMES));
    name.unwrap_or_else(|| unreachable!("no name of the list is empty"))
}

fn text(dice: &mut Dice) -> String {
    one(dice, &TEXTS).to_owned()
}

fn number(dice: &mut Dice) -> Number {
    let number = Number::parse(one(dice, &NUMBERS));
    number.unwrap_or_else(|| unreachable!("the list is one of numbers"))
}

/// Any expression that could have been read, of so many levels.
pub(super) fn condition(dice: &mut Dice, levels: u32) -> Condition {
    let kinds = if levels == 0 { 7 } else { 12 };
    match dice.below(kinds) {
        0 => Condition::Constant(dice.below(2) == 0),
        1 | 2 => comparison(dice),
        3 => {
            let (one, other) = (number(dice), number(dice));
            Condition::Between { name: name(dice), low: one.min(other), high: one.max(other) }
        }
        4 => {
            let texts = (0..=dice.below(3)).map(|_| text(dice)).collect();
            Condition::In { name: name(dice), texts }
        }
        5 => Condition::IsNull(name(dice)),
        6 => {
            let place = one(dice, &[Place::Anywhere, Place::Start, Place::End]);
            Condition::Has { name: name(dice), place, text: text(dice) }
        }
        7 | 8 => Condition::not(condition(dice, levels - 1)),
        kind => {
            let count = 2 + dice.below(3);
            let conditions = (0..count).map(|_| condition(dice, levels - 1)).collect();
            if kind == 9 { Condition::all(conditions) } else { Condition::any(conditions) }
        }
    }
}

fn comparison(dice: &mut Dice) -> Condition {
    let with = match dice.below(4) {
        0 => Operand::Number(number(dice)),
        1 => Operand::Text(text(dice)),
        2 => Operand::Truth(dice.below(2) == 0),
        _ => Operand::Header(name(dice)),
    };
    let relation = match with {
        Operand::Number(_) | Operand::Header(_) => one(dice, &Relation::ALL.map(|(_, one)| one)),
        _ => one(dice, &[Relation::Equal, Relation::NotEqual]),
    };
    Condition::Compare { name: name(dice), relation, with }
}
