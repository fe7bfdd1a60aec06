//! The fixed buckets of histograms: two per octave, so that a quantile read from them is off by
//! less than half. Fixed, because buckets that adapt cannot be summed over threads and nodes.

use super::table::Unit;

/// Upper bounds of the buckets of one unit, in the unit of the cells, ascending; one more bucket
/// follows for everything above.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    bounds: &'static [u64],
    /// What a counted unit is in exported units.
    factor: f64,
}

/// 8 µs (a hot range, the kernel's part excluded) to 67 s (past every deadline of a request).
const MICROS: [u64; 47] = half_octaves(3);
/// 256 B to 1 TiB.
const BYTES: [u64; 65] = half_octaves(8);
/// 2 to 64 Ki: sizes of commits and of queues. The bound 1 comes first.
const COUNT: [u64; 32] = with_one(half_octaves(1));

const fn half_octaves<const N: usize>(first: u32) -> [u64; N] {
    let mut bounds = [0; N];
    let mut index = 0;
    while index < N {
        let octave = 1_u64 << (first as usize + index / 2);
        bounds[index] = if index % 2 == 0 { octave } else { octave + octave / 2 };
        index += 1;
    }
    bounds
}

const fn with_one(rest: [u64; 31]) -> [u64; 32] {
    let mut bounds = [1; 32];
    let mut index = 0;
    while index < rest.len() {
        bounds[index + 1] = rest[index];
        index += 1;
    }
    bounds
}

impl Scale {
    /// The scale of a unit. Histograms of `Seconds` do not exist (see `assert_def`).
    pub const fn of(unit: Unit) -> Self {
        match unit {
            Unit::Micros | Unit::Seconds => Self { bounds: &MICROS, factor: 1e-6 },
            Unit::Bytes => Self { bounds: &BYTES, factor: 1.0 },
            Unit::Count => Self { bounds: &COUNT, factor: 1.0 },
        }
    }

    /// How many buckets there are, the one above all bounds included.
    pub const fn buckets(&self) -> usize {
        self.bounds.len() + 1
    }

    /// The bucket of a value: the first whose bound is not below it.
    pub fn bucket(&self, value: u64) -> usize {
        self.bounds.partition_point(|bound| *bound < value)
    }

    /// Bounds in exported units.
    pub fn exported_bounds(&self) -> Vec<f64> {
        self.bounds.iter().map(|bound| self.export(*bound as f64)).collect()
    }

    /// A counted value in exported units.
    pub fn export(&self, value: f64) -> f64 {
        value * self.factor
    }
}
