//! Texts for types that are known only by what their input function reads, and words for names.
//!
//! Called by `types`, which asks whether there is a sample, and by `generate`.

use super::keys::{below, mix};

/// Words for texts: short, plain, without a letter that some type or check may not take.
pub(super) const WORDS: [&str; 32] = [
    "amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jade", "kelp", "lunar",
    "maple", "north", "ocean", "pearl", "quartz", "river", "stone", "tidal", "umber", "vivid", "willow",
    "xenon", "yarrow", "zephyr", "acorn", "basil", "coral", "dune", "elm", "fern",
];

/// The same words as a text has them where nothing forbids it: lower and upper case, and among the first three a letter of two bytes, so that a
/// migration which folds case, capitalises, cuts bytes or leaves ASCII changes them. Every letter has one letter as its other case: no `ß`, no
/// `İ`.
const MIXED: [&str; 32] = [
    "åMber", "Bírch", "Cédar", "Délta", "éMber", "Fjörd", "Gröve", "Héron", "îNlet", "Jáde", "Kélp", "Lünar",
    "Máple", "Nörth", "öCean", "Péarl", "qÜartz", "Ríver", "Stöne", "Tídal", "üMber", "Vívid", "wÍllow",
    "Xénon", "Yárrow", "Zéphyr", "áCorn", "Básil", "Cöral", "Düne", "éLm", "Férn",
];

/// Letters that a text may have; where nothing is asked for there are lower and upper case, and some that are no ASCII.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letters {
    /// Of one byte each.
    Ascii,
    /// ASCII in lower case.
    Lower,
    /// ASCII in upper case.
    Upper,
}

impl Letters {
    /// Whether a text has no others.
    pub(super) fn take(self, text: &str) -> bool {
        text.is_ascii()
            && match self {
                Self::Ascii => true,
                Self::Lower => !text.bytes().any(|letter| letter.is_ascii_uppercase()),
                Self::Upper => !text.bytes().any(|letter| letter.is_ascii_lowercase()),
            }
    }

    /// What two demands come to; none where they leave no letter.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Ascii, other) => Some(other),
            (this, Self::Ascii) => Some(this),
            (this, other) => (this == other).then_some(this),
        }
    }

    /// A text made of [`MIXED`] with these letters alone, as long as before.
    pub(super) fn respell(self, text: &str) -> String {
        let plain = text.chars().map(|letter| match letter {
            'á' | 'å' => 'a',
            'é' => 'e',
            'í' | 'î' => 'i',
            'Í' => 'I',
            'ö' => 'o',
            'ü' => 'u',
            'Ü' => 'U',
            other => other,
        });
        let plain: String = plain.collect();
        match self {
            Self::Ascii => plain,
            Self::Lower => plain.to_ascii_lowercase(),
            Self::Upper => plain.to_ascii_uppercase(),
        }
    }
}

/// A word by a random number.
pub(super) const fn word(random: u64) -> &'static str {
    WORDS[(random % WORDS.len() as u64) as usize]
}

/// The same word as a text has it.
pub(super) const fn mixed_word(random: u64) -> &'static str {
    MIXED[(random % MIXED.len() as u64) as usize]
}

/// A text that a type's input function reads, by the type's name; absent for types that are not known. Different numbers give
/// different texts where the type has many.
pub(super) fn sample(name: &str, modifier: i32, number: u64) -> Option<String> {
    let random = mix(number);
    let (x, y) = (number % 100_000, below(random, 1_000));
    let relations = ["pg_class", "pg_type", "pg_proc", "pg_namespace"];
    let one = |texts: &[&str]| texts[(number % texts.len() as u64) as usize].to_owned();
    Some(match name {
        "point" => format!("({x},{y})"),
        "line" => format!("{{1,-1,{x}}}"),
        "lseg" => format!("[({x},0),({x},{})]", y + 1),
        "box" => format!("({},{}),({x},{y})", x + 1, y + 1),
        "path" => format!("[({x},0),({x},1),({y},2)]"),
        "polygon" => format!("(({x},0),({},1),({x},2))", x + 1),
        "circle" => format!("<({x},{y}),1>"),
        "tsvector" => format!("'{}':1 '{}':2 'n{number}':3", word(random), word(random >> 8)),
        "tsquery" => format!("'{}' & 'n{number}'", word(random)),
        "xml" => format!("<item number=\"{number}\">{}</item>", word(random)),
        "hstore" => format!("\"{}\"=>\"{number}\"", word(random)),
        "ltree" => format!("top.{}.n{number}", word(random)),
        "lquery" => format!("top.n{number}.*"),
        "ltxtquery" => format!("n{number}"),
        "cube" => format!("({x},{y})"),
        "seg" => format!("{x} .. {}", x + 1),
        "jsonpath" => format!("$.n{number}"),
        "regclass" => one(&relations),
        "regtype" => one(&["integer", "text", "boolean", "uuid"]),
        "regproc" => one(&["now", "pi", "random"]),
        "regprocedure" => one(&["now()", "pi()", "random()"]),
        "regrole" => one(&["pg_monitor", "pg_read_all_data"]),
        "regnamespace" => one(&["pg_catalog", "information_schema"]),
        "regoper" | "regoperator" | "regconfig" | "regdictionary" | "regcollation" => {
            return registered(name);
        }
        "xid" | "xid8" | "cid" => (number % 1_000_000 + 3).to_string(),
        "tid" => format!("({x},1)"),
        "txid_snapshot" | "pg_snapshot" => format!("{0}:{0}:", x + 10),
        "name" | "refcursor" => format!("{}_{number}", word(random)),
        "char" => char::from(b'a' + (number % 26) as u8).to_string(),
        "oidvector" | "int2vector" => format!("{} {}", x % 30_000, y),
        "aclitem" => "=r/pg_database_owner".to_owned(),
        "vector" | "halfvec" => vector(modifier, random),
        "sparsevec" => format!("{{1:{}}}/{}", y + 1, modifier.max(3)),
        "geometry" | "geography" => format!("POINT({} {})", x % 180, y % 90),
        "semver" => format!("1.{x}.{y}"),
        _ => return None,
    })
}

fn registered(name: &str) -> Option<String> {
    let text = match name {
        "regoperator" => "+(integer,integer)",
        "regconfig" => "simple",
        "regdictionary" => "simple",
        "regcollation" => "\"C\"",
        // Most operators are overloaded.
        _ => return None,
    };
    Some(text.to_owned())
}

/// A vector's modifier is its dimension.
fn vector(modifier: i32, random: u64) -> String {
    let mut random = random;
    let items = (0..modifier.clamp(3, 16_000)).map(|_| {
        random = mix(random);
        format!("0.{:03}", below(random, 1_000))
    });
    let items: Vec<String> =
        if modifier > 0 { items.take(modifier as usize).collect() } else { items.collect() };
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::{Letters, MIXED, WORDS};

    #[test]
    fn every_mixed_word_shows_what_a_migration_does_to_case_and_bytes() {
        for (mixed, word) in MIXED.iter().zip(WORDS) {
            assert_eq!(Letters::Lower.respell(mixed), word);
            assert!(Letters::Upper.take(&Letters::Upper.respell(mixed)), "{mixed}");
            assert!(!mixed.chars().take(3).all(|letter| letter.is_ascii()), "{mixed}");
            assert!(*mixed != mixed.to_lowercase() && *mixed != mixed.to_uppercase(), "{mixed}");
            // Its other case is as long, and leads back.
            assert_eq!(mixed.to_lowercase().to_uppercase(), mixed.to_uppercase());
            assert_eq!(mixed.to_uppercase().len(), mixed.len());
        }
        let capitalised = |word: &&str| word.chars().next().is_some_and(char::is_uppercase);
        assert!((20..32).contains(&MIXED.iter().filter(|word| capitalised(word)).count()));
    }
}
