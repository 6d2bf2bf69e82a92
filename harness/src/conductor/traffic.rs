//! From what the pumps measured to what the report needs.

use fulldress_reports::evidence::Limits;
use fulldress_reports::latency::{Counters, HlogError, HlogWriter, IntervalHistogram, Summariser};
use fulldress_reports::traffic::{Model, TrafficEvidence};
use fulldress_workloads::traffic::TrafficResult;

/// Sums the intervals up by route and phase, and writes `latency.hlog`; `epoch_unix_us` is the rehearsal's epoch.
///
/// One interval at a time: an unpacked histogram takes about 170 KB, and a rehearsal has thousands.
pub fn summarise(
    result: &TrafficResult,
    limits: &Limits,
    epoch_unix_us: u64,
) -> (TrafficEvidence, Result<Vec<u8>, HlogError>) {
    let mut summariser = Summariser::new(limits);
    let mut log = HlogWriter::new(epoch_unix_us);
    let mut logged = Ok(());
    for record in &result.intervals {
        let counters = Counters { planned: record.planned, sent: record.sent, errors: record.errors.clone() };
        summariser.add_counters(record.phase, &record.route, record.model, &counters);
        if record.model == Model::Arrivals {
            summariser.add_errors(record.start_us, record.length_us, record.errors.values().sum());
        }
        // What this process packed itself unpacks again; a worker's torn line was refused on arrival.
        let (Ok(response), Ok(service)) = (record.response.unpack(), record.service.unpack()) else {
            continue;
        };
        let interval = IntervalHistogram {
            phase: record.phase,
            route: record.route.clone(),
            model: record.model,
            start_us: record.start_us,
            length_us: record.length_us,
            response,
            service,
        };
        summariser.add_interval(&interval);
        logged = logged.and_then(|()| log.append(&interval));
    }
    let summary = summariser.finish();
    let evidence = TrafficEvidence {
        routes: summary.routes,
        phases: summary.phases,
        series: summary.series,
        driver: result.driver.clone(),
    };
    (evidence, logged.map(|()| log.take()))
}
