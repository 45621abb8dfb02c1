//! Random numbers that can be had again: each test prints its seed.

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The seed is printed, and shown by the harness if the test fails. `ROWLOCK_SEED` sets it.
    pub fn new(default: u64) -> Self {
        let seed = std::env::var("ROWLOCK_SEED").ok();
        let seed = seed.and_then(|seed| seed.parse().ok()).unwrap_or(default);
        println!("seed: {seed}");
        Self(seed)
    }

    /// Of this seed, for a test that names it if it fails.
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// A further source, for a task of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// From 0 to below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
