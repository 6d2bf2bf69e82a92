//! Maps the server's clock to the rehearsal's, with a bound on the error.
//!
//! `Recorder` measures at its start, after a restore and at its end; `reconcile` maps every instant through it.

use fulldress_workloads::clock::Clock;
use sqlx::PgConnection;

/// Round trips of one measurement; the shortest one counts.
const ROUND_TRIPS: u32 = 15;

/// One measured offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockMeasurement {
    /// Server time when it was measured, microseconds since 1970.
    pub server_us: i64,
    /// Server time minus rehearsal time, microseconds.
    pub offset_us: i64,
    /// Half the round trip, rounded up: the offset is right to within this, microseconds.
    pub error_us: u64,
}

/// The measured relation between the server's clock and the rehearsal's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerClock {
    measurements: Vec<ClockMeasurement>,
}

impl ServerClock {
    /// A clock from measurements made elsewhere.
    #[must_use]
    pub const fn new(measurements: Vec<ClockMeasurement>) -> Self {
        Self { measurements }
    }

    /// Measures once more over a connection.
    ///
    /// # Errors
    /// The connection's own, when a round trip fails.
    pub async fn measure(&mut self, connection: &mut PgConnection, clock: Clock) -> Result<(), sqlx::Error> {
        let mut best: Option<ClockMeasurement> = None;
        for _ in 0..ROUND_TRIPS {
            let sent_us = clock.now_us();
            let server_us: i64 = sqlx::query_scalar(
                "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint",
            )
            .fetch_one(&mut *connection)
            .await?;
            let received_us = clock.now_us();
            let middle_us = i64::try_from(u64::midpoint(sent_us, received_us)).unwrap_or(i64::MAX);
            let error_us = (received_us - sent_us).div_ceil(2);
            if best.is_none_or(|best| error_us < best.error_us) {
                best = Some(ClockMeasurement { server_us, offset_us: server_us - middle_us, error_us });
            }
        }
        self.measurements.extend(best);
        Ok(())
    }

    /// A server instant on the rehearsal's clock, microseconds since its epoch; instants before it become 0.
    #[must_use]
    pub fn rehearsal_us(&self, server_us: i64) -> u64 {
        let nearest = self.measurements.iter().min_by_key(|one| one.server_us.abs_diff(server_us));
        u64::try_from(server_us - nearest.map_or(0, |one| one.offset_us)).unwrap_or(0)
    }

    /// The server's time at an instant of the rehearsal's clock, microseconds since 1970, by the last measurement.
    #[must_use]
    pub fn server_us(&self, rehearsal_us: u64) -> i64 {
        let offset_us = self.measurements.last().map_or(0, |one| one.offset_us);
        i64::try_from(rehearsal_us).unwrap_or(i64::MAX).saturating_add(offset_us)
    }

    /// Bound on the mapping's error, microseconds: the worst measurement and the drift between measurements.
    #[must_use]
    pub fn error_us(&self) -> u64 {
        let worst = self.measurements.iter().map(|one| one.error_us).max().unwrap_or(0);
        let drift =
            self.measurements.windows(2).map(|pair| pair[0].offset_us.abs_diff(pair[1].offset_us)).max();
        worst + drift.unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ClockMeasurement, ServerClock};

    #[test]
    fn the_nearest_measurement_maps_and_drift_widens_the_error() {
        let clock = ServerClock::new(vec![
            ClockMeasurement { server_us: 1_000, offset_us: 900, error_us: 5 },
            ClockMeasurement { server_us: 9_000, offset_us: 930, error_us: 7 },
        ]);
        assert_eq!(clock.rehearsal_us(2_000), 1_100);
        assert_eq!(clock.rehearsal_us(8_000), 7_070);
        assert_eq!(clock.rehearsal_us(10), 0);
        assert_eq!(clock.error_us(), 37);
    }
}
