//! Which tables there are: the numbered definitions of `migrations/`, folded into what must exist.

use serde::Deserialize;

/// Every definition, in order. A new file is added at the end.
const DEFINITIONS: [(&str, &str); 4] = [
    ("0001-sessions", include_str!("../../migrations/0001-sessions.toml")),
    ("0002-presence", include_str!("../../migrations/0002-presence.toml")),
    ("0003-keys", include_str!("../../migrations/0003-keys.toml")),
    ("0004-lines", include_str!("../../migrations/0004-lines.toml")),
];

/// One file: opens a table (`hash` is named) or adds indexes to one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    table: String,
    hash: Option<Attribute>,
    range: Option<Attribute>,
    ttl: Option<String>,
    #[serde(default)]
    index: Vec<Index>,
}

/// A key attribute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attribute {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: Kind,
}

/// What a key attribute holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Kind {
    /// Text.
    S,
    /// A number.
    N,
}

/// A global secondary index.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    pub name: String,
    pub hash: Attribute,
    pub range: Option<Attribute>,
    /// What it carries besides the keys.
    #[serde(default)]
    pub include: Vec<String>,
}

/// A table as it must be, under its whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub hash: Attribute,
    pub range: Option<Attribute>,
    pub ttl: Option<String>,
    pub indexes: Vec<Index>,
}

impl Table {
    /// The attributes that the keys of the table and of these indexes are made of, each once.
    pub fn key_attributes<'a>(&'a self, indexes: &'a [Index]) -> Vec<&'a Attribute> {
        let of_indexes = indexes.iter().flat_map(|index| std::iter::once(&index.hash).chain(&index.range));
        let mut found: Vec<&Attribute> = Vec::new();
        for attribute in std::iter::once(&self.hash).chain(&self.range).chain(of_indexes) {
            if !found.contains(&attribute) {
                found.push(attribute);
            }
        }
        found
    }
}

/// The definitions contradict one another: a mistake in this program, found by its tests.
#[derive(Debug, thiserror::Error)]
#[error("migrations/{file}.toml: {what}")]
pub struct BadDefinition {
    file: String,
    what: String,
}

/// All tables, under this prefix.
pub fn tables(prefix: &str) -> Result<Vec<Table>, BadDefinition> {
    fold(prefix, &DEFINITIONS)
}

fn fold(prefix: &str, definitions: &[(&str, &str)]) -> Result<Vec<Table>, BadDefinition> {
    let mut tables: Vec<Table> = Vec::new();
    for (file, text) in definitions {
        let bad = |what: String| BadDefinition { file: (*file).to_owned(), what };
        let read: Definition = toml::from_str(text).map_err(|error| bad(error.to_string()))?;
        let name = format!("{prefix}{}", read.table);
        match (tables.iter_mut().find(|table| table.name == name), read.hash) {
            (Some(_), Some(_)) => return Err(bad(format!("{} exists already", read.table))),
            (None, None) => return Err(bad(format!("{} was opened by no earlier file", read.table))),
            (None, Some(hash)) => {
                tables.push(Table { name, hash, range: read.range, ttl: read.ttl, indexes: read.index });
            }
            (Some(table), None) => table.indexes.extend(read.index),
        }
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_compiled_in_and_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<String> = names.filter_map(|name| name.strip_suffix(".toml").map(str::to_owned)).collect();
        files.sort();
        assert_eq!(files, DEFINITIONS.map(|(file, _)| file.to_owned()));
        for (number, file) in files.iter().enumerate() {
            assert!(file.starts_with(&format!("{:04}-", number + 1)), "{file}");
        }
    }

    #[test]
    fn the_tables_carry_the_prefix_and_a_ttl() {
        let tables = tables("mine-").unwrap();
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["mine-sessions", "mine-presence", "mine-keys", "mine-lines"]);
        assert!(tables.iter().all(|table| table.ttl.as_deref() == Some("expiresAt")));
        let keys: Vec<&str> =
            tables[0].key_attributes(&tables[0].indexes).iter().map(|attribute| attribute.name.as_str()).collect();
        assert_eq!(keys, ["sessionId", "speakerId", "createdAt"]);
    }

    #[test]
    fn a_later_file_adds_an_index_and_cannot_change_the_keys() {
        let opened = ("0001-a", "table = \"a\"\nhash = { name = \"id\", type = \"S\" }");
        let added = ("0002-a", "table = \"a\"\n[[index]]\nname = \"by\"\nhash = { name = \"other\", type = \"N\" }");
        let tables = fold("", &[opened, added]).unwrap();
        assert_eq!((tables.len(), tables[0].indexes.len()), (1, 1));
        let twice = fold("", &[opened, opened]).unwrap_err().to_string();
        assert_eq!(twice, "migrations/0001-a.toml: a exists already");
        assert!(fold("", &[added]).unwrap_err().to_string().contains("opened by no earlier file"));
    }
}
