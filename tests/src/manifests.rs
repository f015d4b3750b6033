//! What the stories put into the cluster. Everything runs agnhost, which is baked into the image:
//! no story pulls anything.

/// Reference of the baked image (tests/profiles/story.toml).
pub const AGNHOST: &str = "imgbuild.local/agnhost:1";
/// NodePort of the Service `web`.
pub const WEB_NODE_PORT: u16 = 30080;

/// A pod that serves HTTP on 8080, and a Service `web` with a NodePort in front of it.
pub fn web() -> String {
    web_pod("")
}

/// The same on the node of this name.
pub fn web_on(node: &str) -> String {
    web_pod(&on(node))
}

/// The line that binds a pod to a node.
fn on(node: &str) -> String {
    format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")
}

fn web_pod(on: &str) -> String {
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
{on}  containers:
  - {{name: web, image: {AGNHOST}, imagePullPolicy: Never, args: [netexec, --http-port=8080]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports:
  - {{port: 80, targetPort: 8080, nodePort: {WEB_NODE_PORT}}}
"
    )
}

/// A pod `caller` on the node of this name, to call others from.
pub fn caller_on(node: &str) -> String {
    let on = on(node);
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: caller, labels: {{app: caller}}}}
spec:
{on}  containers:
  - {{name: caller, image: {AGNHOST}, imagePullPolicy: Never, args: [pause]}}
"
    )
}

/// `caller` may ask the cluster's DNS, as such policies are written everywhere, and nothing else.
pub fn dns_alone() -> String {
    r"apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dns-alone}
spec:
  podSelector: {matchLabels: {app: caller}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
"
    .to_owned()
}

/// A pod in the machine's own network, IPC and PID namespaces with the machine's /usr: kubectl in it
/// reads the machine's /proc/sys.
pub fn inspector() -> String {
    inspector_pod("")
}

/// The same on the node of this name.
pub fn inspector_on(node: &str) -> String {
    inspector_pod(&on(node))
}

fn inspector_pod(on: &str) -> String {
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: inspector}}
spec:
{on}  hostNetwork: true
  hostIPC: true
  hostPID: true
  containers:
  - name: inspector
    image: {AGNHOST}
    imagePullPolicy: Never
    args: [pause]
    securityContext: {{privileged: true}}
    volumeMounts: [{{name: usr, mountPath: /usr, readOnly: true}}]
  volumes: [{{name: usr, hostPath: {{path: /usr}}}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_bound_to_a_node_says_so_in_its_own_line() {
        for (bound, free) in [(web_on("n1"), web()), (inspector_on("n1"), inspector())] {
            let line = "  nodeSelector: {kubernetes.io/hostname: n1}\n";
            assert!(bound.contains(&format!("spec:\n{line}  ")), "{bound}");
            assert_eq!(bound.replace(line, ""), free);
        }
    }
}
