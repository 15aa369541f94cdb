//! The task that exports spans, from the start to the end of the drain.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::config::Admin;
use crate::otlp::Exporter;

/// Runs while there is a collector.
#[derive(Default)]
pub(super) struct Exporting {
    task: TaskTracker,
    stop: CancellationToken,
}

impl Exporting {
    /// Begins, if there is a collector.
    pub fn start(app: &App, admin: &Admin) -> Self {
        let this = Self::default();
        if let Some(collector) = &admin.otlp
            && let Some(spans) = app.tracer.start(app.metrics.spans("dropped"))
        {
            let exporter = Exporter {
                dialer: Arc::clone(&app.dialer),
                clock: app.clock.clone(),
                endpoint: collector.endpoint.clone(),
                authority: collector.authority.clone(),
                base_path: collector.base_path.clone(),
                exported: app.metrics.spans("exported"),
                failed: app.metrics.spans("failed"),
            };
            this.task.spawn(exporter.run(spans, this.stop.clone()));
        }
        this
    }

    /// What is in the queue goes out, as far as the collector takes it in time.
    pub async fn end(&self) {
        self.stop.cancel();
        self.task.close();
        self.task.wait().await;
    }
}
