//! What the stories put into the cluster. Everything runs agnhost, which is baked into the image:
//! no story pulls anything.

/// Reference of the baked image (tests/profiles/story.toml).
pub const AGNHOST: &str = "imgbuild.local/agnhost:1";
/// NodePort of the Service `web`.
pub const WEB_NODE_PORT: u16 = 30080;

/// A pod that serves HTTP on 8080, and a Service `web` with a NodePort in front of it.
pub fn web() -> String {
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  containers:
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

/// A pod in the machine's own network, IPC and PID namespaces with the machine's /usr: kubectl in it
/// reads the machine's /proc/sys.
pub fn inspector() -> String {
    format!(
        r"apiVersion: v1
kind: Pod
metadata: {{name: inspector}}
spec:
  hostNetwork: true
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
