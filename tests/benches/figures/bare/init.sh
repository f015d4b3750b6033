#!/usr/bin/busybox sh
# What a machine's boot is measured against: PID 1 that starts the same programs at once and nothing else.
export PATH=/usr/bin:/usr/sbin:/busybox
/usr/bin/busybox --install -s /busybox
say() { read -r up _ </proc/uptime; echo "bare: $* at $up s" >/dev/ttyS0; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for place in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $place; done
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in failover net_failover virtio_net overlay br_netfilter nf_tables; do modprobe $module 2>/dev/null; done
hostname bare
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
echo nameserver 10.0.2.3 >/etc/resolv.conf
echo 1 >/proc/sys/net/ipv4/ip_forward
say begun
cd /pki
containerd --config /bare/containerd.toml >/var/log/containerd.log 2>&1 &
etcd --data-dir /var/lib/etcd --log-level=warn >/var/log/etcd.log 2>&1 &
while ! [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
say containerd serves
kube-apiserver --advertise-address=10.0.2.15 --tls-cert-file=server.crt --tls-private-key-file=server.key \
    --client-ca-file=ca.crt --service-account-issuer=https://bare --service-account-key-file=service-account.pub \
    --service-account-signing-key-file=service-account.key --service-cluster-ip-range=10.96.0.0/16 \
    --authorization-mode=Node,RBAC --etcd-servers=http://127.0.0.1:2379 >/var/log/apiserver.log 2>&1 &
say kubelet starts
kubelet --config=/bare/kubelet.yaml --kubeconfig=kubeconfig --node-ip=10.0.2.15 >/var/log/kubelet.log 2>&1 &
kube-controller-manager --kubeconfig=kubeconfig --service-account-private-key-file=service-account.key \
    --root-ca-file=ca.crt --allocate-node-cidrs --cluster-cidr=10.244.0.0/16 \
    --service-cluster-ip-range=10.96.0.0/16 >/var/log/controller-manager.log 2>&1 &
kube-scheduler --kubeconfig=kubeconfig >/var/log/scheduler.log 2>&1 &
kube-proxy --kubeconfig=kubeconfig --proxy-mode=nftables --hostname-override=bare --cluster-cidr=10.244.0.0/16 \
    >/var/log/proxy.log 2>&1 &
while :; do wait; sleep 60; done
