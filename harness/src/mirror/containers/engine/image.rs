//! Images: whether they are here, what they bring, and how they come.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt as _;

use super::super::super::MirrorError;
use super::{Engine, ImageFacts, failed, status, words};

impl Engine {
    /// Whether the machine has an image.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn has_image(&self, image: &str) -> Result<bool, MirrorError> {
        let what = format!("look for the image {image}");
        self.call(&what, async {
            match self.docker.inspect_image(image).await {
                Ok(_) => Ok(true),
                Err(error) if status(&error) == Some(404) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Fetches an image from its registry.
    ///
    /// # Errors
    /// One sentence that names the image, when its registry cannot be reached, does not have it, or takes too long.
    pub async fn pull(&self, image: &str, limit: Duration) -> Result<(), MirrorError> {
        // Without a tag the engine would fetch every tag there is.
        let (name, tag) = with_tag(image);
        let options = CreateImageOptionsBuilder::new().from_image(name).tag(tag).build();
        let pulling = async {
            let mut lines = self.docker.create_image(Some(options), None, None);
            while lines.try_next().await?.is_some() {}
            Ok::<(), bollard::errors::Error>(())
        };
        let reason = match self.attended(tokio::time::timeout(limit, pulling)).await? {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => words(&error),
            Err(_) => format!("it took longer than {} s", limit.as_secs()),
        };
        Err(MirrorError::new(
            format!("failed to pull the image {image}: {reason}"),
            "make the mirror's images without a registry with `make images`, or name an image that this machine has",
        ))
    }

    /// What an image on this machine brings along.
    ///
    /// # Errors
    /// When the image is not here or the engine does not answer.
    pub async fn image(&self, image: &str) -> Result<ImageFacts, MirrorError> {
        let what = format!("look at the image {image}");
        let facts = self.call(&what, async { Ok(self.docker.inspect_image(image).await) }).await?;
        let facts = facts.map_err(|error| failed(&what, &error))?;
        let config = facts.config.unwrap_or_default();
        let environment = config.env.into_iter().flatten().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            (name.to_owned(), value.to_owned())
        });
        Ok(ImageFacts {
            id: facts.id.unwrap_or_default(),
            environment: environment.collect(),
            volumes: config.volumes.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
        })
    }
}

/// An image's name and its tag or digest; `latest` where it has none.
fn with_tag(image: &str) -> (&str, &str) {
    if image.contains('@') {
        return (image, "");
    }
    // A colon before a slash belongs to the registry's port.
    match image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, tag),
        None => (image, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::with_tag;

    #[test]
    fn a_tag_is_told_from_a_port() {
        assert_eq!(with_tag("postgres:15"), ("postgres", "15"));
        assert_eq!(with_tag("postgres"), ("postgres", "latest"));
        assert_eq!(with_tag("registry.example:5000/postgres"), ("registry.example:5000/postgres", "latest"));
        assert_eq!(with_tag("registry.example:5000/postgres:15"), ("registry.example:5000/postgres", "15"));
        assert_eq!(with_tag("postgres@sha256:12"), ("postgres@sha256:12", ""));
    }
}
