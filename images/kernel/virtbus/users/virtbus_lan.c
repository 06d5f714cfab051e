// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plays the Ethernet driver of PCI functions that can do RDMA as well. On each function that it
 * drives it makes two virtbus devices: "rdma", and "diag" for tools of a factory.
 *
 * QEMU's edu device is bound by its id and has a DMA engine (QEMU: docs/specs/edu.rst). Any other
 * function is taken by driver_override; copies are refused there.
 */

#include <linux/dma-mapping.h>
#include <linux/err.h>
#include <linux/io.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "virtbus_lan.h"

#define LAN_QUEUES 16

#define EDU_DMA_SOURCE 0x80
#define EDU_DMA_TARGET 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_START BIT(0)
#define EDU_DMA_TO_RAM BIT(1)
#define EDU_BUFFER 0x40000
#define EDU_BUFFER_SIZE 4096
#define EDU_DMA_BITS 28

/* What of PCI functions is used, by the driver_data of the table. */
enum { LAN_PLAIN, LAN_EDU };

struct lan_function {
	struct pci_dev *pdev;
	void __iomem *regs;	/* NULL: no DMA engine */
	struct mutex engine;	/* held while it copies */
	struct lan_port *rdma, *diag;
};

/* A virtbus device, and what is behind it as long as the function is there. */
struct lan_port {
	struct lan_device lan;
	struct mutex lock;	/* of what follows */
	struct lan_function *function;	/* NULL: gone */
	const struct lan_client_ops *client;
	void *context;
	unsigned int queues;	/* in use */
};

static struct lan_port *to_port(struct lan_device *lan)
{
	return container_of(lan, struct lan_port, lan);
}

static int lan_attach(struct lan_device *lan, const struct lan_client_ops *client, void *context)
{
	struct lan_port *port = to_port(lan);
	int ret = 0;

	mutex_lock(&port->lock);
	if (!port->function) {
		ret = -ENODEV;
	} else if (port->client) {
		ret = -EBUSY;
	} else {
		port->client = client;
		port->context = context;
	}
	mutex_unlock(&port->lock);
	return ret;
}

static void lan_detach(struct lan_device *lan)
{
	struct lan_port *port = to_port(lan);

	mutex_lock(&port->lock);
	port->client = NULL;
	port->queues = 0;
	mutex_unlock(&port->lock);
}

static int lan_request_queues(struct lan_device *lan, unsigned int count)
{
	struct lan_port *port = to_port(lan);
	int ret = 0;

	mutex_lock(&port->lock);
	if (!port->function)
		ret = -ENODEV;
	else if (count > LAN_QUEUES - port->queues)
		ret = -ENOSPC;
	else
		port->queues += count;
	mutex_unlock(&port->lock);
	return ret;
}

static void lan_release_queues(struct lan_device *lan, unsigned int count)
{
	struct lan_port *port = to_port(lan);

	mutex_lock(&port->lock);
	port->queues -= min(count, port->queues);
	mutex_unlock(&port->lock);
}

static int edu_transfer(void __iomem *regs, u64 from, u64 to, size_t size, u64 direction)
{
	u64 command;

	writeq(from, regs + EDU_DMA_SOURCE);
	writeq(to, regs + EDU_DMA_TARGET);
	writeq(size, regs + EDU_DMA_COUNT);
	writeq(EDU_DMA_START | direction, regs + EDU_DMA_COMMAND);
	return readq_poll_timeout(regs + EDU_DMA_COMMAND, command, !(command & EDU_DMA_START),
				  10 * USEC_PER_MSEC, 20 * USEC_PER_SEC);
}

static int lan_copy(struct lan_device *lan, dma_addr_t from, dma_addr_t to, size_t size)
{
	struct lan_port *port = to_port(lan);
	struct lan_function *function;
	int ret;

	mutex_lock(&port->lock);
	function = port->function;
	if (!function) {
		ret = -ENODEV;
	} else if (!function->regs) {
		ret = -EOPNOTSUPP;
	} else if (size > EDU_BUFFER_SIZE) {
		ret = -EINVAL;
	} else {
		mutex_lock(&function->engine);
		ret = edu_transfer(function->regs, from, EDU_BUFFER, size, 0);
		if (!ret)
			ret = edu_transfer(function->regs, EDU_BUFFER, to, size, EDU_DMA_TO_RAM);
		mutex_unlock(&function->engine);
	}
	mutex_unlock(&port->lock);
	return ret;
}

static const struct lan_ops lan_ops = {
	.attach = lan_attach,
	.detach = lan_detach,
	.request_queues = lan_request_queues,
	.release_queues = lan_release_queues,
	.copy = lan_copy,
};

/* The virtbus devices of a function */

static void lan_port_release(struct virtbus_device *vdev)
{
	struct lan_port *port = to_port(to_lan_device(vdev));

	mutex_destroy(&port->lock);
	kfree(port);
}

static struct lan_port *lan_port_create(struct lan_function *function, const char *name)
{
	struct lan_port *port = kzalloc(sizeof(*port), GFP_KERNEL);
	int ret;

	if (!port)
		return ERR_PTR(-ENOMEM);
	mutex_init(&port->lock);
	port->function = function;
	port->lan.ops = &lan_ops;
	port->lan.vdev.dev.parent = &function->pdev->dev;
	port->lan.vdev.release = lan_port_release;
	ret = virtbus_dev_init(&port->lan.vdev, name);
	if (ret) {
		kfree(port);
		return ERR_PTR(ret);
	}
	ret = virtbus_dev_add(&port->lan.vdev);
	if (ret) {
		virtbus_dev_uninit(&port->lan.vdev);
		return ERR_PTR(ret);
	}
	return port;
}

static void lan_port_destroy(struct lan_port *port)
{
	/* The driver may still call operations in its remove. */
	virtbus_dev_del(&port->lan.vdev);
	/* From here on they fail, for whoever kept a reference. */
	mutex_lock(&port->lock);
	port->function = NULL;
	mutex_unlock(&port->lock);
	virtbus_dev_uninit(&port->lan.vdev);
}

/* Files of the PCI function, in its directory "lan": PCI has a "link" of its own. */

static ssize_t link_store(struct device *dev, struct device_attribute *attr, const char *buf,
			  size_t count)
{
	struct lan_function *function = dev_get_drvdata(dev);
	struct lan_port *port = function->rdma;
	bool up;
	int ret;

	ret = kstrtobool(buf, &up);
	if (ret)
		return ret;
	mutex_lock(&port->lock);
	if (port->client)
		port->client->link(port->context, up);
	else
		ret = -ENOTCONN;
	mutex_unlock(&port->lock);
	return ret ?: count;
}
static DEVICE_ATTR_WO(link);

static ssize_t queues_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct lan_function *function = dev_get_drvdata(dev);

	return sysfs_emit(buf, "%u of %u\n", READ_ONCE(function->rdma->queues), LAN_QUEUES);
}
static DEVICE_ATTR_RO(queues);

static struct attribute *lan_attrs[] = {
	&dev_attr_link.attr,
	&dev_attr_queues.attr,
	NULL
};

static const struct attribute_group lan_group = {
	.name = "lan",
	.attrs = lan_attrs,
};
__ATTRIBUTE_GROUPS(lan);

/* The PCI function */

static int lan_map_engine(struct lan_function *function)
{
	struct pci_dev *pdev = function->pdev;
	int ret;

	ret = pcim_iomap_regions(pdev, BIT(0), KBUILD_MODNAME);
	if (ret)
		return ret;
	function->regs = pcim_iomap_table(pdev)[0];
	pci_set_master(pdev);
	return dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(EDU_DMA_BITS));
}

static int lan_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct lan_function *function = devm_kzalloc(&pdev->dev, sizeof(*function), GFP_KERNEL);
	int ret;

	if (!function)
		return -ENOMEM;
	function->pdev = pdev;
	mutex_init(&function->engine);
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	if (id->driver_data == LAN_EDU) {
		ret = lan_map_engine(function);
		if (ret)
			return ret;
	}
	pci_set_drvdata(pdev, function);
	function->rdma = lan_port_create(function, "rdma");
	if (IS_ERR(function->rdma))
		return PTR_ERR(function->rdma);
	function->diag = lan_port_create(function, "diag");
	if (IS_ERR(function->diag)) {
		lan_port_destroy(function->rdma);
		return PTR_ERR(function->diag);
	}
	return 0;
}

static void lan_remove(struct pci_dev *pdev)
{
	struct lan_function *function = pci_get_drvdata(pdev);

	lan_port_destroy(function->diag);
	lan_port_destroy(function->rdma);
	lan_event(&pdev->dev, "remove");
}

static void lan_shutdown(struct pci_dev *pdev)
{
	lan_event(&pdev->dev, "shutdown");
}

static int lan_suspend(struct device *dev)
{
	lan_event(dev, "suspend");
	return 0;
}

static int lan_resume(struct device *dev)
{
	lan_event(dev, "resume");
	return 0;
}

static const struct dev_pm_ops lan_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(lan_suspend, lan_resume)
};

static const struct pci_device_id lan_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e8), .driver_data = LAN_EDU },
	{ }
};
MODULE_DEVICE_TABLE(pci, lan_ids);

static struct pci_driver lan_driver = {
	.name = KBUILD_MODNAME,
	.id_table = lan_ids,
	.probe = lan_probe,
	.remove = lan_remove,
	.shutdown = lan_shutdown,
	.dev_groups = lan_groups,
	.driver.pm = pm_sleep_ptr(&lan_pm_ops),
};
module_pci_driver(lan_driver);

MODULE_DESCRIPTION("Creator of virtbus devices on PCI functions");
MODULE_LICENSE("GPL");
