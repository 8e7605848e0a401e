//! The ops port: `/livez`, `/readyz`, `/metrics`. It answers until the process is gone, drain included.

use std::fmt::Write as _;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics;
use crate::tasks::Tasks;

/// Histograms keep their samples one by one until this comes round: at 100,000 a second that is a megabyte or two.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Ops {
    health: Health,
    prometheus: PrometheusHandle,
    tasks: Tasks,
    process: metrics_process::Collector,
}

/// Serves the ops port. Not one of `tasks`: it must answer while they are waited for, and ends with the process.
pub fn start(listener: TcpListener, health: Health, prometheus: PrometheusHandle, tasks: Tasks) {
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_EVERY);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router(health, prometheus, tasks.clone())).await {
            tracing::error!(%error, "the ops port stopped answering");
            tasks.drain().start("the ops port stopped answering");
        }
    });
}

fn router(health: Health, prometheus: PrometheusHandle, tasks: Tasks) -> Router {
    let process = metrics_process::Collector::default();
    process.describe();
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Ops {
            health,
            prometheus,
            tasks,
            process,
        })
}

/// 200 while no task that must live has failed. A supervisor restarts what answers 503 here.
async fn livez(State(ops): State<Ops>) -> (StatusCode, String) {
    match ops.tasks.failure() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(failure) => (StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
    }
}

/// 200 while every condition is good and no drain has begun; otherwise one line for each thing that is in the way.
async fn readyz(State(ops): State<Ops>) -> (StatusCode, String) {
    let mut body = String::new();
    if ops.tasks.drain().is_started() {
        let _ = writeln!(body, "drain: {}", ops.tasks.drain().why().unwrap_or("begun"));
    }
    for (name, why) in ops.health.troubles() {
        let _ = writeln!(body, "{name}: {why}");
    }
    if body.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

async fn scrape(State(ops): State<Ops>) -> impl IntoResponse {
    ops.process.collect();
    let ready = ops.health.is_ready() && !ops.tasks.drain().is_started();
    metrics::READY.get().set(if ready { 1.0 } else { 0.0 });
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        ops.prometheus.render(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::Drain;
    use crate::tasks::Kind;

    fn ops() -> Ops {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        Ops {
            health: Health::new(),
            prometheus: recorder.handle(),
            tasks: Tasks::new(Drain::new(Duration::from_secs(1))),
            process: metrics_process::Collector::default(),
        }
    }

    #[tokio::test]
    async fn ready_means_all_conditions_good_and_no_drain() {
        let ops = ops();
        assert_eq!(readyz(State(ops.clone())).await.0, StatusCode::OK);
        ops.health.set("store", Err("no host answers".into()));
        let (status, body) = readyz(State(ops.clone())).await;
        assert_eq!(
            (status, body.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "store: no host answers\n")
        );
        ops.health.set("store", Ok(()));
        ops.tasks.drain().start("SIGTERM");
        assert_eq!(readyz(State(ops.clone())).await.1, "drain: SIGTERM\n");
        assert_eq!(livez(State(ops)).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_failed_task_is_no_longer_alive() {
        let ops = ops();
        ops.tasks
            .spawn(Kind::Essential, "driver", async { Err::<(), _>("gone") })
            .ended()
            .await;
        assert_eq!(
            livez(State(ops)).await,
            (StatusCode::SERVICE_UNAVAILABLE, "task driver: gone\n".to_owned())
        );
    }
}
