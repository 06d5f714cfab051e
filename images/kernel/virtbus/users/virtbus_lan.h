/* SPDX-License-Identifier: GPL-2.0-only */
/* What virtbus_lan and the drivers of its virtbus devices agree on. The bus knows nothing of it. */
#ifndef VIRTBUS_LAN_H
#define VIRTBUS_LAN_H

#include <linux/ktime.h>
#include <linux/printk.h>
#include <linux/types.h>
#include <linux/virtual_bus.h>

struct lan_device;

/* Called by virtbus_lan in the driver that is attached. */
struct lan_client_ops {
	void (*link)(void *context, bool up);
};

/*
 * Called by the driver. As long as somebody holds a reference to the device they may be called;
 * once the PCI function is gone they answer -ENODEV.
 */
struct lan_ops {
	int (*attach)(struct lan_device *lan, const struct lan_client_ops *client, void *context);
	void (*detach)(struct lan_device *lan);
	int (*request_queues)(struct lan_device *lan, unsigned int count);
	void (*release_queues)(struct lan_device *lan, unsigned int count);
	/* Copy by the function's DMA engine. Addresses are mapped for lan->vdev.dev.parent. */
	int (*copy)(struct lan_device *lan, dma_addr_t from, dma_addr_t to, size_t size);
};

struct lan_device {
	const struct lan_ops *ops;
	struct virtbus_device vdev;
};

static inline struct lan_device *to_lan_device(struct virtbus_device *vdev)
{
	return container_of(vdev, struct lan_device, vdev);
}

/* A line for whoever checks the order of things: what the conformance modules write too. */
static inline void lan_event(const struct device *dev, const char *what)
{
	pr_info("vbt: %llu %s %s\n", ktime_get_ns(), dev_name(dev), what);
}

#endif /* VIRTBUS_LAN_H */
