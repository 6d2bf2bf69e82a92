//! How a row becomes a number: an expression in the server's own SQL.
//!
//! Called by the data digest and by the count of lost rows.
//!
//! Each column is hashed with the hash of the columns before it as its seed, in the order of their names. Were the hashes
//! of columns added up instead, as `hash_record_extended` does, values could change places between rows unseen. It is
//! not enough for other reasons as well: it folds 64-bit numbers and times to 32 bits before the seed plays a part (1 and
//! 4294967296 are one), it ignores a numeric's sign, and it takes 1.0 for 1.00. Here a numeric of another scale is another
//! value, and so is −0: a lost scale is a lost value.
//!
//! NULL is hashed as a value that nobody has: outside the type where there is room, else a number of 64 bits or more
//! that was drawn once. Four bytes have no such room, so that the NULLs among them are counted besides.
//!
//! Types whose binary form holds object ids, which a down and an up again make anew, are hashed as text.

/// Columns in one expression; the server nests a call for each, and its stack is small.
const NESTED_MAX: usize = 64;
/// What stands for NULL.
const NULL_INT4: i32 = -1_390_177_563;
const NULL_INT8: i64 = -6_917_524_934_513_614_946;
const NULL_TEXT: &str = "\u{1}2c07d1a4-9b6f-4a0e-8f35-6e1f0c9d7b52";
const NULL_UUID: &str = "2c07d1a4-9b6f-4a0e-8f35-6e1f0c9d7b52";
const NULL_BYTES: &str = "\\x2c07d1a49b6f4a0e8f356e1f0c9d7b52";

/// How a type is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    Int2,
    Int4,
    Int8,
    Bool,
    Uuid,
    Text,
    /// In binary, by the function that writes it so.
    Sent(String),
    /// Written as text.
    Cast,
}

impl Form {
    /// Of a type's name, or its function; empty for text.
    pub(super) fn of(name: &str) -> Self {
        match name {
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "bool" => Self::Bool,
            "uuid" => Self::Uuid,
            "text" | "varchar" => Self::Text,
            "" => Self::Cast,
            function => Self::Sent(function.to_owned()),
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Quoted where it must be.
    pub(super) name: String,
    /// Its type, without length or precision.
    pub(super) kind: String,
    pub(super) form: Form,
}

/// A value of a row: what to read, and how it is hashed.
#[derive(Debug, Clone)]
pub(super) struct Value {
    what: String,
    form: Form,
}

impl Column {
    pub(super) fn value(&self) -> Value {
        Value { what: self.name.clone(), form: self.form.clone() }
    }

    /// Written as text, whatever it is.
    pub(super) fn as_text(&self) -> Value {
        Value { what: self.name.clone(), form: Form::Cast }
    }

    /// What stands in its place where it is gone.
    pub(super) fn absent(&self) -> Value {
        // The type itself may be gone too, if it is not one of the server's.
        let kind = if self.form == Form::Cast { "text" } else { &self.kind };
        Value { what: format!("NULL::{kind}"), form: self.form.clone() }
    }
}

impl Value {
    /// The value's hash with another as its seed.
    fn hash(&self, seed: &str) -> String {
        let what = &self.what;
        match &self.form {
            Form::Int2 => format!("hashint4extended(coalesce({what}::int4, 65536), {seed})"),
            Form::Bool => format!("hashint4extended(coalesce({what}::int4, 2), {seed})"),
            Form::Int4 => format!("hashint4extended(coalesce({what}, {NULL_INT4}), {seed})"),
            // The function folds both halves into one before the seed plays a part: with the number in the seed as well, nothing is
            // lost.
            Form::Int8 => format!(
                "hashint8extended(coalesce({what}, {NULL_INT8}), {seed} # coalesce({what}, {NULL_INT8}))"
            ),
            Form::Uuid => format!("uuid_hash_extended(coalesce({what}, '{NULL_UUID}'::uuid), {seed})"),
            Form::Text => format!("hashtextextended(coalesce({what}, '{NULL_TEXT}') COLLATE \"C\", {seed})"),
            Form::Cast => {
                format!("hashtextextended(coalesce({what}::text, '{NULL_TEXT}') COLLATE \"C\", {seed})")
            }
            Form::Sent(_) => seed.to_owned(),
        }
    }

    /// The value in binary, if it is hashed so. The server hashes bytes only as the element of something.
    fn sent(&self) -> Option<String> {
        match &self.form {
            Form::Sent(function) => {
                Some(format!("coalesce({function}({}), '{NULL_BYTES}'::bytea)", self.what))
            }
            _ => None,
        }
    }
}

/// The expression of a row's hash, 64 bits; another seed gives another, independent hash.
pub(super) fn hash(row: &[Value], seed: i64) -> String {
    let parts: Vec<String> =
        row.chunks(NESTED_MAX).zip(seed..).map(|(values, part)| chain(values, part)).collect();
    if parts.is_empty() { format!("{seed}::int8") } else { parts.join(" # ") }
}

/// What is sent in binary comes first, in one call for all of it; each of the others has what came before as its seed.
fn chain(values: &[Value], part: i64) -> String {
    let counted = values.iter().filter(|value| value.form == Form::Int4);
    let counted: Vec<&str> = counted.map(|value| value.what.as_str()).collect();
    let sent: Vec<String> = values.iter().filter_map(Value::sent).collect();
    let seed = part * 1_000_003;
    let mut hash = if counted.is_empty() {
        format!("{seed}::int8")
    } else {
        format!("hashint4extended(num_nulls({}), {seed})", counted.join(", "))
    };
    if !sent.is_empty() {
        // The call adds the hashes of the elements up; the outer one sees to it that sums of rows are no sums of columns.
        hash = format!("hashint4extended(7, hash_array_extended(ARRAY[{}], {hash}))", sent.join(", "));
    }
    values
        .iter()
        .filter(|value| !matches!(value.form, Form::Sent(_)))
        .fold(hash, |seed, value| value.hash(&seed))
}
