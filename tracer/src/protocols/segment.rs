//! One segment of a path, and what it looks like.

/// Languages that pages are written in, by ISO 639-1, but for codes that are words of programs, too.
const LANGUAGES: &str = "ar bg bn ca cs da de el en es et eu fa fi fr ga gl he hi hr hu hy it ja ka kk km \
                         ko lt lv mk mn ms nb ne nl nn pl pt ro ru sk sl sq sr sv sw ta te th tr uk ur \
                         uz vi zh";

/// One segment of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Segment {
    /// As it is in targets.
    Constant(Box<str>),
    /// A value.
    Variable,
}

impl Segment {
    /// Whether it stands for another.
    pub fn takes(&self, other: &Segment) -> bool {
        *self == Segment::Variable || self == other
    }

    /// Whether it is the language of a page, with or without a country: `en`, `pt-BR`.
    pub fn is_language(&self) -> bool {
        let Segment::Constant(text) = self else {
            return false;
        };
        let (language, country) = text.split_once(['-', '_']).unwrap_or((text, "XX"));
        LANGUAGES.split(' ').any(|known| known == language)
            && country.len() == 2
            && country.bytes().all(|b| b.is_ascii_alphabetic())
    }

    /// The name of something numbered with its numbers left out: `app-7` and `app-12` have one. (`v2` is
    /// a name of its own.)
    pub fn unnumbered(&self) -> Option<String> {
        let Segment::Constant(text) = self else {
            return None;
        };
        let mut name = String::new();
        for letter in text.chars() {
            match letter.is_ascii_digit() {
                false => name.push(letter),
                true if name.ends_with('0') => {}
                true => name.push('0'),
            }
        }
        (name.contains('0') && !matches!(&*name, "0" | "v0")).then_some(name)
    }

    /// Whether it is the number of a release: `1.4.2`, `v2.0`. (`v2` is a name.)
    pub fn is_release(&self) -> bool {
        let Segment::Constant(text) = self else {
            return false;
        };
        let numbers = text.strip_prefix('v').unwrap_or(text);
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        numbers.contains('.') && numbers.split('.').all(number)
    }
}
