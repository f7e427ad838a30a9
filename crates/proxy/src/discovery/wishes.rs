//! Which resources are wanted, by whom, from where.
//!
//! Owners (clusters, listeners, route configurations) refer to resources; subscriptions ask for the union. What no
//! owner refers to any more is reported, so that it can be forgotten.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_xds::ResourceType;
use meltemi_xds::client::Wanted;

/// A subscription: a source and a type.
pub(super) type Subscription = (Source, ResourceType);
/// A resource that an owner needs.
pub(super) type Need = (ResourceType, Reference);

/// Who wants something: the type and the name of what refers to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Owner(pub(super) ResourceType, pub(super) Str);

/// All wishes.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    owners: HashMap<Owner, Vec<Need>>,
    subscriptions: HashMap<Subscription, Entry>,
    changed: Vec<Subscription>,
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Arc<Wanted>,
    /// By name: the key, and how many owners refer to it.
    users: HashMap<Str, (Str, u32)>,
}

/// What a change of wishes brought about.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Nobody asked for these before.
    pub(super) added: Vec<Need>,
    /// Nobody asks for these any more.
    pub(super) dropped: Vec<Need>,
}

impl Wishes {
    /// Everything of a type that a source has.
    pub(super) fn want_all(&mut self, source: &Source, kind: &ResourceType) {
        let key = (source.clone(), kind.clone());
        let entry = self.subscriptions.entry(key.clone()).or_default();
        Arc::make_mut(&mut entry.wanted).all = true;
        self.changed.push(key);
    }

    /// A subscription without names yet (virtual hosts, which are asked for on demand).
    pub(super) fn open(&mut self, source: &Source, kind: &ResourceType) {
        let key = (source.clone(), kind.clone());
        if !self.subscriptions.contains_key(&key) {
            self.subscriptions.insert(key.clone(), Entry::default());
            self.changed.push(key);
        }
    }

    /// Replaces what an owner needs.
    pub(super) fn set(&mut self, owner: Owner, needs: Vec<Need>) -> Changed {
        let needs: Vec<Need> = needs
            .into_iter()
            .filter(|(_, reference)| reference.source != Source::Static)
            .collect();
        let mut changed = Changed::default();
        for need in &needs {
            if self.enter(need) {
                changed.added.push(need.clone());
            }
        }
        let before = if needs.is_empty() {
            self.owners.remove(&owner)
        } else {
            self.owners.insert(owner, needs)
        };
        for need in before.into_iter().flatten() {
            if self.leave(&need) {
                changed
                    .added
                    .retain(|(kind, reference)| *kind != need.0 || reference.key != need.1.key);
                changed.dropped.push(need);
            }
        }
        changed
    }

    /// Adds to what an owner needs.
    pub(super) fn add(&mut self, owner: Owner, more: Vec<Need>) -> Changed {
        let mut needs = self.owners.get(&owner).cloned().unwrap_or_default();
        for need in more {
            let known = needs
                .iter()
                .any(|(kind, reference)| *kind == need.0 && reference.key == need.1.key);
            if !known {
                needs.push(need);
            }
        }
        self.set(owner, needs)
    }

    fn enter(&mut self, (kind, reference): &Need) -> bool {
        let key = (reference.source.clone(), kind.clone());
        let entry = self.subscriptions.entry(key.clone()).or_default();
        let users = entry
            .users
            .entry(reference.name.clone())
            .or_insert_with(|| (reference.key.clone(), 0));
        users.1 += 1;
        let new = users.1 == 1;
        if new {
            Arc::make_mut(&mut entry.wanted)
                .names
                .insert(reference.name.clone());
            self.changed.push(key);
        }
        new
    }

    fn leave(&mut self, (kind, reference): &Need) -> bool {
        let key = (reference.source.clone(), kind.clone());
        let Some(entry) = self.subscriptions.get_mut(&key) else {
            return false;
        };
        let Some((_, count)) = entry.users.get_mut(&reference.name) else {
            return false;
        };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        entry.users.remove(&reference.name);
        Arc::make_mut(&mut entry.wanted)
            .names
            .remove(&reference.name);
        self.changed.push(key);
        true
    }

    /// What a subscription asks for; `None` when there is none.
    pub(super) fn wanted(&self, source: &Source, kind: &ResourceType) -> Option<Arc<Wanted>> {
        let entry = self.subscriptions.get(&(source.clone(), kind.clone()))?;
        let by_name_only = *kind != ResourceType::VirtualHost && !entry.wanted.all;
        let nothing = by_name_only && entry.wanted.names.is_empty();
        (!nothing).then(|| Arc::clone(&entry.wanted))
    }

    /// The key of a resource that is subscribed to by name.
    pub(super) fn key(&self, source: &Source, kind: &ResourceType, name: &str) -> Option<Str> {
        let entry = self.subscriptions.get(&(source.clone(), kind.clone()))?;
        entry.users.get(name).map(|(key, _)| key.clone())
    }

    /// Names of resources that are subscribed to.
    pub(super) fn needs(&self, owner: &Owner) -> &[Need] {
        self.owners.get(owner).map_or(&[], Vec::as_slice)
    }

    /// Takes the subscriptions that changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Subscription> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(name: &str) -> Need {
        (
            ResourceType::Route,
            Reference::new(Source::Ads, name.into(), None),
        )
    }

    fn names(wishes: &Wishes) -> Vec<String> {
        wishes
            .wanted(&Source::Ads, &ResourceType::Route)
            .into_iter()
            .flat_map(|wanted| wanted.names.clone())
            .map(|name| name.to_string())
            .collect()
    }

    #[test]
    fn a_resource_is_dropped_with_its_last_owner() {
        let mut wishes = Wishes::default();
        let owner = |name: &str| Owner(ResourceType::Listener, name.into());
        assert_eq!(wishes.set(owner("a"), vec![need("r")]).added.len(), 1);
        assert!(wishes.set(owner("b"), vec![need("r")]).added.is_empty());
        assert!(wishes.set(owner("a"), Vec::new()).dropped.is_empty());
        assert_eq!(names(&wishes), ["r"]);
        assert_eq!(wishes.set(owner("b"), Vec::new()).dropped.len(), 1);
        assert!(names(&wishes).is_empty());
    }

    #[test]
    fn a_replaced_wish_that_stays_is_neither_added_nor_dropped() {
        let mut wishes = Wishes::default();
        let owner = Owner(ResourceType::Listener, "a".into());
        wishes.set(owner.clone(), vec![need("r")]);
        wishes.take_changed();
        let changed = wishes.set(owner, vec![need("r")]);
        assert!(changed.added.is_empty() && changed.dropped.is_empty());
        assert!(wishes.take_changed().is_empty());
    }
}
