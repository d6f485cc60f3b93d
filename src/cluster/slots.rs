//! A small map by number, in the order of insertion. The standard library's maps would add 15 KB of code.

#[derive(Debug)]
pub struct Slots<V>(Vec<(u64, V)>);

impl<V> Default for Slots<V> {
    fn default() -> Slots<V> {
        Slots(Vec::new())
    }
}

impl<V> Slots<V> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn get(&self, key: u64) -> Option<&V> {
        self.iter().find(|(of, _)| *of == key).map(|(_, v)| v)
    }

    pub fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let mut slots = self.0.iter_mut();
        slots.find(|(of, _)| *of == key).map(|(_, v)| v)
    }

    /// Replaces what was there.
    pub fn insert(&mut self, key: u64, value: V) {
        match self.get_mut(key) {
            Some(old) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    pub fn remove_oldest(&mut self) {
        if !self.0.is_empty() {
            self.0.remove(0);
        }
    }

    pub fn remove(&mut self, key: u64) -> Option<V> {
        let place = self.0.iter().position(|(of, _)| *of == key)?;
        Some(self.0.remove(place).1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.0.iter().map(|(key, v)| (*key, v))
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.0.iter().map(|(_, v)| v)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().map(|(_, v)| v)
    }
}
