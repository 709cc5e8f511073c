//! Many pods, one after the other.

use crate::node::Node;

#[test]
fn cycles_leave_nothing() {
    const CYCLES: usize = 4;
    let node = Node::new();
    for cycle in 0..CYCLES {
        let pod = node.pod(|_| ());
        let container = pod.run("exec sleep 1000000");
        container.stop(0);
        container.remove();
        pod.remove();
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new(), "cycle {cycle}");
    }
}
