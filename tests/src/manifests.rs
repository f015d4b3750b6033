//! What the stories put into the cluster. Everything runs agnhost, which is baked into the image:
//! no story pulls anything.

use spec::paths::PKI_DIR;
use spec::ports::{self, API_BALANCER};

/// Reference of the baked image (tests/profiles/story.toml).
pub const AGNHOST: &str = "imgbuild.local/agnhost:1";
/// Reference of the sandboxes' image (profiles/base.toml).
const PAUSE: &str = "imgbuild.local/pause:1";
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

/// Nothing may take the pod `web` away.
pub fn budget_of_web() -> String {
    r"apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec:
  minAvailable: 1
  selector: {matchLabels: {app: web}}
"
    .to_owned()
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

/// Name of the pod of [`etcdctl_on`].
pub const ETCDCTL: &str = "etcdctl";

/// A pod that calls etcdctl once, on the master of this name with the machine's own program and its API server's
/// certificate. Its image is one that every machine has.
pub fn etcdctl_on(node: &str, arguments: &str) -> String {
    let pki = format!("{PKI_DIR}/kubernetes");
    let key = |name: &str| format!("{pki}/{name}");
    let mut words = vec!["/usr/bin/etcdctl".to_owned(), format!("--cacert={}", key("etcd-ca.crt"))];
    words.extend([format!("--cert={}", key("etcd-client.crt")), format!("--key={}", key("etcd-client.key"))]);
    words.push(format!("--endpoints=https://127.0.0.1:{}", ports::ETCD_CLIENT));
    words.extend(arguments.split(' ').map(str::to_owned));
    let words = words.join(", ");
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: {ETCDCTL}}}
spec:
  nodeName: {node}
  hostNetwork: true
  restartPolicy: Never
  containers:
  - name: etcdctl
    image: {PAUSE}
    imagePullPolicy: Never
    command: [{words}]
    securityContext: {{runAsUser: 0}}
    volumeMounts: [{{name: usr, mountPath: /usr, readOnly: true}}, {{name: pki, mountPath: {pki}, readOnly: true}}]
  volumes: [{{name: usr, hostPath: {{path: /usr}}}}, {{name: pki, hostPath: {{path: {pki}}}}}]
"
    )
}

/// Name of the pod of [`asker_on`].
pub const ASKER: &str = "asker";

/// A pod on the node of this name that reads an object by the node's own balancer, once a second, with client-go's
/// connections (`kubectl proxy`). A request that an API server has not looked at is sent again, as client-go does by itself
/// for all but its proxy. Its container `asks` writes how often it was answered, once in 30 times, and FAILED.
pub fn asker_on(node: &str) -> String {
    let on = on(node);
    format!(
        r#"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {ASKER}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}}
subjects: [{{kind: ServiceAccount, name: default, namespace: default}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: {ASKER}}}
spec:
{on}  hostNetwork: true
  containers:
  - name: proxy
    image: {AGNHOST}
    imagePullPolicy: Never
    command: [/usr/bin/busybox, sh, -c]
    args:
    - |
      cd /var/run/secrets/kubernetes.io/serviceaccount
      exec /usr/bin/kubectl proxy --port=8001 --server=https://127.0.0.1:{API_BALANCER} --tls-server-name=kubernetes \
        --certificate-authority=ca.crt --token="$(/usr/bin/busybox cat token)"
    volumeMounts: [{{name: usr, mountPath: /usr, readOnly: true}}]
  - name: asks
    image: {AGNHOST}
    imagePullPolicy: Never
    command: [/usr/bin/busybox, sh, -c]
    args:
    - |
      ask() {{ /usr/bin/busybox wget -q -T 10 -O /dev/null http://127.0.0.1:8001/api/v1/namespaces/default; }}
      until ask; do /usr/bin/busybox sleep 1; done
      count=0
      while true; do
        if ask || {{ /usr/bin/busybox sleep 1; ask; }}; then count=$((count + 1)); else echo "FAILED at $(/usr/bin/busybox date)"; fi
        [ $((count % 30)) = 0 ] && echo "answered $count times at $(/usr/bin/busybox date)"
        /usr/bin/busybox sleep 1
      done
    volumeMounts: [{{name: usr, mountPath: /usr, readOnly: true}}]
  volumes: [{{name: usr, hostPath: {{path: /usr}}}}]
"#
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
