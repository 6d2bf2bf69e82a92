//! A derived rehearsal as files: plan, inventory, workload and package, as a person would have written them.
//!
//! `derived` calls it with what it found; `fulldress run` plays the folder, now or after somebody has edited it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::phases::Phases;
use super::traffic::quoted;

/// The database of the derived mirror, and the role that owns it and that the application uses.
pub const DATABASE: &str = "app";
/// See [`DATABASE`].
pub const OWNER: &str = "app";
/// Name of the plan in the folder.
pub const PLAN: &str = "rehearsal.toml";
/// Name of the dump in the folder.
pub const DUMP: &str = "dataset.sql";

/// One migration as a step of the package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Id of the migration in its history.
    pub id: String,
    /// What its tool would send, with the transaction that its tool puts around.
    pub up: String,
    /// The way back; absent when the history has none.
    pub down: Option<String>,
}

/// What goes into the folder.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Name of the rehearsal.
    pub name: String,
    /// Migrations in the order in which they are applied; at least one.
    pub steps: &'a [Step],
    /// Id of the migration before them; `none` when there is none.
    pub from: String,
    /// How long the phases are.
    pub phases: Phases,
    /// Text of the workload file.
    pub workload: &'a str,
    /// What was decided on the way, one sentence each.
    pub decisions: &'a [String],
    /// Folder of PostgreSQL's programs; the machine's when absent.
    pub postgres: Option<&'a Path>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Most rows of a filled table.
    pub rows: u64,
    /// Whether writes go into the ledger.
    pub has_ledger: bool,
    /// Whether a table is left alone by all of them.
    pub has_untouched: bool,
    /// Password of the owner, which the dump sets.
    pub password: &'a str,
}

/// Writes everything but the dump; gives the plan's path.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, contents: &Contents<'_>) -> io::Result<PathBuf> {
    let sql = folder.join("package").join("sql");
    std::fs::create_dir_all(&sql)?;
    for (number, step) in contents.steps.iter().enumerate() {
        let id = step_id(number, step);
        std::fs::write(sql.join(format!("{id}.up.sql")), &step.up)?;
        if let Some(down) = &step.down {
            std::fs::write(sql.join(format!("{id}.down.sql")), down)?;
        }
    }
    std::fs::write(folder.join("package").join("manifest.toml"), manifest(contents))?;
    std::fs::write(folder.join("inventory.toml"), inventory(contents))?;
    std::fs::write(folder.join("workload.toml"), contents.workload)?;
    let plan = folder.join(PLAN);
    std::fs::write(&plan, plan_text(contents))?;
    Ok(plan)
}

/// What stands before the dump: it grants to these roles and does not make them.
#[must_use]
pub fn roles(others: &[String], password: &str) -> String {
    let mut text = format!(
        "CREATE ROLE {OWNER} LOGIN PASSWORD '{password}';\nGRANT CREATE, USAGE ON SCHEMA public TO {OWNER};\n"
    );
    for role in others {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "CREATE ROLE {role};\nGRANT {role} TO {OWNER};");
    }
    text
}

/// Letters of a migration's id in a step's: with the number before them they are what a manifest takes.
const STEP_ID_MAX: usize = 60;

/// Id of a step: lower-case letters, digits, dots and hyphens, and unique by its number.
fn step_id(number: usize, step: &Step) -> String {
    let plain = |letter: char| {
        let letter = letter.to_ascii_lowercase();
        if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' }
    };
    let id: String = step.id.chars().map(plain).take(STEP_ID_MAX).collect();
    format!("{:03}-{}", number + 1, id.trim_matches(['-', '.']))
}

/// A version as manifest and inventory take it.
fn version(id: &str) -> String {
    let plain =
        |letter: char| if letter.is_ascii_alphanumeric() || "._+-".contains(letter) { letter } else { '-' };
    let version: String = id.chars().map(plain).take(80).collect();
    if version.is_empty() { "none".to_owned() } else { version }
}

fn last(contents: &Contents<'_>) -> String {
    contents.steps.last().map_or_else(|| "none".to_owned(), |step| version(&step.id))
}

fn manifest(contents: &Contents<'_>) -> String {
    let mut text = format!(
        "# The migrations as steps, as their own tool would run them.\n\
         schema = \"fulldress/package/1\"\nname = \"migrations\"\nfrom = {}\nto = {}\n\n[rollback]\nmethod = \"down\"\n",
        quoted(&version(&contents.from)),
        quoted(&last(contents)),
    );
    for (number, step) in contents.steps.iter().enumerate() {
        let id = step_id(number, step);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[step]]\nid = {}\nkind = \"sql\"\nfile = {}\ntimeout_s = 600\n",
            quoted(&id),
            quoted(&format!("sql/{id}.up.sql"))
        );
        if step.down.is_some() {
            let _ = writeln!(
                text,
                "rollback = {{ file = {}, timeout_s = 600 }}",
                quoted(&format!("sql/{id}.down.sql"))
            );
        }
    }
    text
}

fn inventory(contents: &Contents<'_>) -> String {
    let (from, to) = (quoted(&version(&contents.from)), quoted(&last(contents)));
    format!(
        "# Only the migrations are rehearsed: nothing is known of hosts, units and files.\n\
         schema = \"fulldress/inventory/1\"\nproduct = \"migrations\"\ninstalled = {from}\npaths = [[{from}, {to}]]\n"
    )
}

fn plan_text(contents: &Contents<'_>) -> String {
    let mut decisions = String::new();
    for decision in contents.decisions {
        // Writing to a String cannot fail.
        let _ = writeln!(decisions, "#   {decision}");
    }
    let postgres = contents
        .postgres
        .map_or_else(String::new, |folder| format!("postgres = {}\n", quoted(&folder.display().to_string())));
    let limits = [
        "application code: the traffic is derived from the catalog".to_owned(),
        format!(
            "production's size: {} rows a table at most, and production's number is unknown",
            contents.rows
        ),
    ];
    let limits: Vec<String> = limits.iter().map(|limit| quoted(limit)).collect();
    format!(
        "# A rehearsal derived from a folder of migrations. Everything in it may be edited.\n\
         #\n# What was decided on the way:\n{decisions}\
         schema = \"fulldress/plan/1\"\nname = {name}\nseed = {seed}\npackage = \"package\"\ninventory = \"inventory.toml\"\n\
         # Stands in the report beside what no rehearsal covers.\nnot_rehearsed = [{limits}]\n\n\
         [mirror]\nkind = \"local\"\n{postgres}\n\
         [mirror.dataset]\ndump = \"{DUMP}\"\n\n\
         [mirror.database]\nname = \"{DATABASE}\"\nowner = \"{OWNER}\"\n# A password of this mirror alone.\nroles = {{ {OWNER} = \"{password}\" }}\n\n\
         [traffic]\nworkload = \"workload.toml\"\ndatabase = {{ app = \"{OWNER}\" }}\n\n\
         # As long as the rarest route of the workload needs.\n{phases}\n\
         [faults]\ncells_max = 0\n\n\
         [checks]\n\
         # What takes the migration lock is the tool that runs the files, and that is not part of this rehearsal.\n\
         LOCK-MIGRATION = {{ required = false }}\nLOCK-DOUBLE-RUN = {{ required = false }}\n\
         # Whether a timeout is set is the tool's or the role's matter as often as the file's.\n\
         LOCK-TIMEOUT = {{ required = false }}\n\
         # Tools do not run the way back of a migration that failed.\n\
         ROLL-FAULT = {{ required = false }}\n\
         # There is neither a flag store nor a registry of webhooks, and no other service.\n\
         ROLL-FLAG = {{ required = false }}\nROLL-WEBHOOK = {{ required = false }}\nDEP-OUTAGE = {{ required = false }}\n{ledger}{untouched}",
        name = quoted(&contents.name),
        seed = contents.seed,
        limits = limits.join(", "),
        phases = contents.phases.toml(),
        password = contents.password,
        untouched = if contents.has_untouched {
            ""
        } else {
            "# The traffic writes every table.\nROLL-DATA = { required = false }\n"
        },
        ledger = if contents.has_ledger {
            ""
        } else {
            "# No client can name what it wrote: every key comes from a sequence.\nROLL-LEDGER = { required = false }\n"
        },
    )
}

#[cfg(test)]
mod tests {
    use super::{Step, step_id};

    #[test]
    fn a_long_id_still_fits_into_a_manifest() {
        let step = |id: &str| Step { id: id.to_owned(), up: String::new(), down: None };
        let id = step_id(
            11,
            &step("2026-06-15-141114-0000_Add tenant_user_app_and_device_profile_admin_and_more"),
        );
        assert!(id.len() <= 64 && id.starts_with("012-2026-06-15-141114-0000-add-tenant"), "{id}");
        assert_eq!(step_id(0, &step("1")), "001-1");
    }
}
