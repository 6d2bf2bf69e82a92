//! Which kind of mirror a rehearsal gets, and why.

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::StepKind;

use crate::events::Events;
use crate::mirror::MirrorError;
use crate::mirror::containers::compose::ensure_images;
use crate::mirror::containers::engine::Engine;
use crate::package::Package;
use crate::package::manifest::{Action, RollbackAction};
use crate::plan::{MirrorKind, Plan};

/// What the mirror stands on.
#[derive(Clone)]
pub(super) enum Ground {
    /// This machine's own processes.
    Local,
    /// A container engine.
    Containers(Engine),
}

/// Chooses, and tells what was chosen and why it was not containers.
///
/// # Errors
/// When the plan leaves no choice and the machine cannot.
pub(super) async fn choose(plan: &Plan, package: &Package, events: &Events) -> Result<Ground, MirrorError> {
    let (ground, name) = match plan.mirror.kind {
        MirrorKind::Local => (Ground::Local, "local"),
        MirrorKind::Compose => (Ground::Containers(containers(plan, package, events).await?), "compose"),
        MirrorKind::Auto if plan.mirror.compose.is_none() => (Ground::Local, "local"),
        MirrorKind::Auto => match containers(plan, package, events).await {
            Ok(engine) => (Ground::Containers(engine), "compose"),
            Err(error) if plan.lacks_for_local().is_none() => {
                events.notice(format!("the mirror is local, not in containers: {error}"));
                (Ground::Local, "local")
            }
            Err(error) => return Err(error),
        },
    };
    events.tell(Happening::Mirror(name.to_owned()));
    Ok(ground)
}

async fn containers(plan: &Plan, package: &Package, events: &Events) -> Result<Engine, MirrorError> {
    let engine = Engine::connect().await?;
    ensure_images(&engine, plan, &versions(package), |text| events.stage(text)).await?;
    Ok(engine)
}

/// Services and versions that the package deploys, on the way there and back.
fn versions(package: &Package) -> Vec<(String, String)> {
    let steps = &package.manifest.steps;
    let there = steps.iter().map(|step| &step.action);
    let back = steps.iter().filter_map(|step| match &step.rollback.as_ref()?.action {
        RollbackAction::Run(action) => Some(action),
        RollbackAction::RestoreConfig { .. } => None,
    });
    let actions = there.chain(back).filter(|action| action.kind() == StepKind::Service);
    actions
        .filter_map(|action| match action {
            Action::Service { service, version } => Some((service.clone(), version.clone())),
            _ => None,
        })
        .collect()
}
