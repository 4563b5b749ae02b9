//! Members: found, kept under loss, given up when gone, taken back.

use super::world::{Net, Setup, World, node_id};
use super::{ms, seeds};

#[test]
fn nobody_is_given_up_under_loss() {
    seeds(6, |seed| {
        let loss = [0.01, 0.05, 0.2][seed as usize % 3];
        let mut world = World::cluster(seed, 5, Net::new(loss, 0.02, (50, 5_000)), Setup::default());
        let told: Vec<usize> = world.living().map(|(_, node)| node.members_told.len()).collect();
        world.run(ms(180_000));
        for ((index, node), told) in world.living().zip(told) {
            assert_eq!(
                node.members_told.len(),
                told,
                "seed {seed}: node {index} {:?}",
                node.members_told
            );
        }
    });
}

#[test]
fn a_dead_node_is_given_up_and_a_leaver_is_gone_at_once() {
    let mut world = World::cluster(1, 5, Net::new(0.05, 0.0, (50, 500)), Setup::default());
    world.stop(4);
    world.run(ms(20_000));
    assert!(world.living().all(|(_, node)| !node.live.contains(&node_id(4))));
    world.leave(3);
    world.run(ms(100));
    world.stop(3);
    world.run(ms(2_000));
    for (_, node) in world.living() {
        assert_eq!(node.live, [node_id(0), node_id(1), node_id(2)]);
        let left = node
            .gossip
            .members()
            .into_iter()
            .find(|member| member.node == node_id(3));
        assert_eq!(left.map(|member| member.state), Some("left"));
    }
}

#[test]
fn members_know_each_others_names_and_agree_on_homes() {
    let mut world = World::cluster(9, 4, Net::new(0.1, 0.0, (50, 500)), Setup::default());
    world.run(ms(10_000));
    for (_, node) in world.living() {
        let mut names: Vec<String> = node
            .gossip
            .members()
            .into_iter()
            .map(|member| member.name)
            .collect();
        names.sort();
        assert_eq!(names, ["node-0", "node-1", "node-2", "node-3"]);
    }
}

#[test]
fn ten_to_fifty_nodes_find_each_other() {
    for count in [10, 50] {
        let mut world = World::new(1, Net::new(0.01, 0.0, (50, 500)), Setup::default());
        (0..count).for_each(|index| world.start(index));
        world.run(ms(15_000));
        for (index, node) in world.living() {
            assert_eq!(node.live.len(), count, "node {index}");
        }
    }
}
