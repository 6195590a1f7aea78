//! Texts of a policy that stand for others: wildcards and policy variables (IAM user guide, "IAM policy elements: variables").

use std::borrow::Cow;

use super::keys::Values;
use super::names::KeyName;
use super::request::Request;

/// A text with its wildcards set apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Glob {
    /// No wildcard in it.
    Exact(String),
    Wild(Vec<Token>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    /// `?`: any one character.
    One,
    /// `*`: any number of characters.
    Any,
}

impl Glob {
    /// A pattern in which `*` and `?` are wildcards.
    pub(super) fn wild(pattern: &str) -> Self {
        if !pattern.contains(['*', '?']) {
            return Self::Exact(pattern.to_owned());
        }
        Self::Wild(pattern.chars().map(wildcard).collect())
    }

    /// Matches without regard to ASCII case; the pattern must be in lower case.
    pub(super) fn matches_folded(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.eq_ignore_ascii_case(text),
            Self::Wild(tokens) => matches_tokens(tokens, text.chars().map(|c| c.to_ascii_lowercase())),
        }
    }

    /// The parts between separators, at most `most` of them: the last one has the rest.
    pub(super) fn split(&self, separator: char, most: usize) -> Vec<Self> {
        match self {
            Self::Exact(exact) => exact.splitn(most, separator).map(|part| Self::Exact(part.to_owned())).collect(),
            Self::Wild(tokens) => {
                let parts = tokens.splitn(most, |token| *token == Token::Char(separator));
                parts.map(|part| glob_of(part.iter().copied())).collect()
            }
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Wild(tokens) => matches_tokens(tokens, text.chars()),
        }
    }

    /// Whether it matches an ARN, or the same one in some other region. The time is bounded by the product of both lengths.
    pub(super) fn matches_in_some_region(&self, arn: &str) -> bool {
        let Some((before, after)) = around_region(arn) else { return self.matches(arn) };
        match self {
            Self::Exact(exact) => around_region(exact) == Some((before, after)),
            Self::Wild(tokens) if *tokens == [Token::Any] => true,
            Self::Wild(tokens) => {
                let mut reading = Reading::start(tokens);
                before.chars().for_each(|next| reading.character(next));
                reading.any_region();
                after.chars().for_each(|next| reading.character(next));
                reading.is_complete()
            }
        }
    }
}

/// What stands before and behind the fourth component of an ARN, the region, with the colons.
fn around_region(arn: &str) -> Option<(&str, &str)> {
    let mut colons = arn.match_indices(':').skip(2).map(|(at, _)| at);
    let (before, after) = (colons.next()?, colons.next()?);
    Some((&arn[..=before], &arn[after..]))
}

/// How much of a pattern is used up by a text of which a part is not fixed: every count of tokens that is possible.
struct Reading<'a> {
    tokens: &'a [Token],
    // One place more than there are tokens.
    used: Vec<bool>,
}

impl<'a> Reading<'a> {
    fn start(tokens: &'a [Token]) -> Self {
        let mut reading = Self { tokens, used: vec![false; tokens.len() + 1] };
        reading.used[0] = true;
        reading.pass_stars();
        reading
    }

    /// A `*` may stand for nothing.
    fn pass_stars(&mut self) {
        for (at, token) in self.tokens.iter().enumerate() {
            self.used[at + 1] |= self.used[at] && *token == Token::Any;
        }
    }

    fn character(&mut self, next: char) {
        // From behind, so that what is looked at is from before this character.
        for at in (0..self.used.len()).rev() {
            let stays = self.used[at] && self.tokens.get(at) == Some(&Token::Any);
            let comes = at.checked_sub(1).is_some_and(|before| {
                let reads = match self.tokens[before] {
                    Token::Any => false,
                    Token::One => true,
                    Token::Char(wanted) => wanted == next,
                };
                self.used[before] && reads
            });
            self.used[at] = stays || comes;
        }
        self.pass_stars();
    }

    /// Any number of any characters but colons.
    fn any_region(&mut self) {
        for (at, token) in self.tokens.iter().enumerate() {
            self.used[at + 1] |= self.used[at] && *token != Token::Char(':');
        }
    }

    fn is_complete(&self) -> bool {
        self.used.last() == Some(&true)
    }
}

fn wildcard(character: char) -> Token {
    match character {
        '*' => Token::Any,
        '?' => Token::One,
        other => Token::Char(other),
    }
}

/// Whether the tokens cover the text. At a mismatch only the last `*` seen takes one more character: an earlier one need never
/// be tried again, so the time is bounded by the product of both lengths.
fn matches_tokens(tokens: &[Token], mut text: impl Iterator<Item = char> + Clone) -> bool {
    let mut at = 0;
    let mut retry = None;
    loop {
        let rest = text.clone();
        match (tokens.get(at), text.next()) {
            (Some(Token::Any), _) => {
                text = rest;
                at += 1;
                retry = Some((at, text.clone()));
            }
            (Some(Token::One), Some(_)) => at += 1,
            (Some(Token::Char(want)), Some(found)) if *want == found => at += 1,
            (None, None) => return true,
            _ => {
                let Some((after, mut from)) = retry else { return false };
                if from.next().is_none() {
                    return false;
                }
                at = after;
                text = from.clone();
                retry = Some((after, from));
            }
        }
    }
}

/// A part of a text with variables in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Token(Token),
    Variable { key: KeyName, default: Option<String> },
}

/// A text that may have wildcards and variables, as it stands in a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Template {
    Fixed(Glob),
    Variable(Vec<Piece>),
}

/// Which of the characters in a text have a meaning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Syntax {
    /// `*` and `?`.
    pub wildcards: bool,
    /// `${...}`: in documents of version 2012-10-17.
    pub variables: bool,
}

impl Template {
    /// Reads a text. The error is what is wrong with it.
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            if syntax.variables
                && let Some(inside) = rest.strip_prefix("${")
            {
                let (name, after) =
                    inside.split_once('}').ok_or_else(|| format!("the policy variable in {text} has no end"))?;
                pieces.push(variable(name)?);
                rest = after;
                continue;
            }
            pieces.push(Piece::Token(if syntax.wildcards { wildcard(next) } else { Token::Char(next) }));
            rest = &rest[next.len_utf8()..];
        }
        if pieces.iter().any(|piece| matches!(piece, Piece::Variable { .. })) {
            return Ok(Self::Variable(pieces));
        }
        Ok(Self::Fixed(glob_of(pieces.into_iter().filter_map(|piece| match piece {
            Piece::Token(token) => Some(token),
            Piece::Variable { .. } => None,
        }))))
    }

    /// Whether it asks for a key that this KMS does not know.
    pub(super) fn names_unknown_key(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Variable(pieces) => {
                pieces.iter().any(|piece| matches!(piece, Piece::Variable { key: KeyName::Unknown, .. }))
            }
        }
    }

    /// The pattern for one request; `None` if a variable has no value, or several. What a variable brings is literal.
    pub(super) fn resolve(&self, request: &Request<'_>) -> Option<Cow<'_, Glob>> {
        let pieces = match self {
            Self::Fixed(glob) => return Some(Cow::Borrowed(glob)),
            Self::Variable(pieces) => pieces,
        };
        let mut tokens = Vec::with_capacity(pieces.len() + 32);
        for piece in pieces {
            match piece {
                Piece::Token(token) => tokens.push(*token),
                Piece::Variable { key, default } => match (request.values(key), default) {
                    (Values::One(value), _) => tokens.extend(value.chars().map(Token::Char)),
                    (Values::Absent, Some(default)) => tokens.extend(default.chars().map(Token::Char)),
                    _ => return None,
                },
            }
        }
        Some(Cow::Owned(glob_of(tokens.into_iter())))
    }
}

fn glob_of(tokens: impl Iterator<Item = Token> + Clone) -> Glob {
    let exact: Option<String> = tokens
        .clone()
        .map(|token| match token {
            Token::Char(character) => Some(character),
            Token::One | Token::Any => None,
        })
        .collect();
    exact.map_or_else(|| Glob::Wild(tokens.collect()), Glob::Exact)
}

/// What stands between the braces: `*`, `?` or `$` for the character itself, or `KEY`, or `KEY, 'DEFAULT'`.
fn variable(inside: &str) -> Result<Piece, String> {
    if let "*" | "?" | "$" = inside {
        return Ok(Piece::Token(Token::Char(inside.chars().next().unwrap_or('$'))));
    }
    let (name, default) = match inside.split_once(',') {
        None => (inside, None),
        Some((name, default)) => {
            let default = default.trim().strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
            (name, Some(default.ok_or_else(|| format!("the default in ${{{inside}}} is not in single quotes"))?))
        }
    };
    let name = name.trim();
    if name.is_empty() || !name.contains(':') {
        return Err(format!("${{{inside}}} is not a policy variable"));
    }
    Ok(Piece::Variable { key: KeyName::parse(name), default: default.map(str::to_owned) })
}
