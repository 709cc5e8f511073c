//! Many pods, one after the other. Many at once are in the shim's tests, where nothing else takes the processor.

use bulkhead_tests::harness::cycles;

use crate::node::Node;

#[test]
fn cycles_leave_nothing() {
    let node = Node::new();
    for cycle in 0..cycles() {
        let pod = node.pod(|_| ());
        let container = pod.run("exec sleep 1000000");
        container.stop(0);
        container.remove();
        pod.remove();
        assert_eq!(node.containerd.leftovers(), Vec::<String>::new(), "cycle {cycle}");
    }
}
