// SPDX-License-Identifier: GPL-2.0-only
/*
 * Plays the RDMA driver of the functions that virtbus_lan drives. Binds to their virtbus devices
 * and registers a class device for each, below the PCI function and named after it.
 */

#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#include "virtbus_lan.h"

#define RDMA_COPY_SIZE 1024

struct rdma_device {
	struct miscdevice misc;
	struct lan_device *lan;
	struct mutex lock;	/* of queues */
	unsigned int queues;
	unsigned int events;
	bool link;
};

/* A device that is kept after its removal, to show that its operations fail and nothing else. */
static struct lan_device *rdma_kept;
static bool rdma_keep;
static DEFINE_MUTEX(rdma_kept_lock);

static void rdma_link(void *context, bool up)
{
	struct rdma_device *rdma = context;

	WRITE_ONCE(rdma->link, up);
	rdma->events++;
}

static const struct lan_client_ops rdma_client_ops = {
	.link = rdma_link,
};

/* Files of the class device */

static struct rdma_device *to_rdma(struct device *dev)
{
	/* drivers/char/misc.c makes it so. */
	return container_of(dev_get_drvdata(dev), struct rdma_device, misc);
}

static ssize_t queues_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(to_rdma(dev)->queues));
}

static ssize_t queues_store(struct device *dev, struct device_attribute *attr, const char *buf,
			    size_t count)
{
	struct rdma_device *rdma = to_rdma(dev);
	unsigned int wanted;
	int ret;

	ret = kstrtouint(buf, 10, &wanted);
	if (ret)
		return ret;
	mutex_lock(&rdma->lock);
	rdma->lan->ops->release_queues(rdma->lan, rdma->queues);
	rdma->queues = 0;
	ret = rdma->lan->ops->request_queues(rdma->lan, wanted);
	if (!ret)
		rdma->queues = wanted;
	mutex_unlock(&rdma->lock);
	return ret ?: count;
}
static DEVICE_ATTR_RW(queues);

static ssize_t link_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	struct rdma_device *rdma = to_rdma(dev);

	return sysfs_emit(buf, "%s after %u events\n", READ_ONCE(rdma->link) ? "up" : "down",
			  READ_ONCE(rdma->events));
}
static DEVICE_ATTR_RO(link);

/* Let the PCI function copy between two buffers that are mapped for it. */
static int rdma_copy(struct rdma_device *rdma)
{
	struct device *function = rdma->lan->vdev.dev.parent;
	dma_addr_t from, to;
	u8 *source, *target;
	int ret = -ENOMEM;
	int i;

	source = dma_alloc_coherent(function, RDMA_COPY_SIZE, &from, GFP_KERNEL);
	target = dma_alloc_coherent(function, RDMA_COPY_SIZE, &to, GFP_KERNEL);
	if (!source || !target)
		goto out;
	for (i = 0; i < RDMA_COPY_SIZE; i++)
		source[i] = i ^ (i >> 8) ^ 0x5a;
	memset(target, 0, RDMA_COPY_SIZE);
	ret = rdma->lan->ops->copy(rdma->lan, from, to, RDMA_COPY_SIZE);
	if (!ret && memcmp(source, target, RDMA_COPY_SIZE))
		ret = -EIO;
out:
	if (source)
		dma_free_coherent(function, RDMA_COPY_SIZE, source, from);
	if (target)
		dma_free_coherent(function, RDMA_COPY_SIZE, target, to);
	return ret;
}

static ssize_t copy_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	int ret = rdma_copy(to_rdma(dev));

	return ret ? ret : sysfs_emit(buf, "%d bytes\n", RDMA_COPY_SIZE);
}
static DEVICE_ATTR_RO(copy);

static struct attribute *rdma_attrs[] = {
	&dev_attr_queues.attr,
	&dev_attr_link.attr,
	&dev_attr_copy.attr,
	NULL
};
ATTRIBUTE_GROUPS(rdma);

/* Binding */

static const struct file_operations rdma_fops = {
	.owner = THIS_MODULE,
};

static void rdma_free(struct rdma_device *rdma)
{
	mutex_destroy(&rdma->lock);
	kfree(rdma->misc.name);
	kfree(rdma);
}

static int rdma_probe(struct virtbus_device *vdev, const struct virtbus_device_id *id)
{
	struct lan_device *lan = to_lan_device(vdev);
	struct rdma_device *rdma = kzalloc(sizeof(*rdma), GFP_KERNEL);
	int ret;

	if (!rdma)
		return -ENOMEM;
	mutex_init(&rdma->lock);
	rdma->lan = lan;
	rdma->misc.minor = MISC_DYNAMIC_MINOR;
	rdma->misc.fops = &rdma_fops;
	rdma->misc.groups = rdma_groups;
	/* Not the virtbus device: names in user space come from it, and DMA is mapped for it. */
	rdma->misc.parent = vdev->dev.parent;
	rdma->misc.name = kasprintf(GFP_KERNEL, "vrdma-%s", dev_name(vdev->dev.parent));
	ret = rdma->misc.name ? lan->ops->attach(lan, &rdma_client_ops, rdma) : -ENOMEM;
	if (ret)
		goto free;
	ret = misc_register(&rdma->misc);
	if (ret)
		goto detach;
	virtbus_set_drvdata(vdev, rdma);
	lan_event(&vdev->dev, "probe");
	return 0;

detach:
	lan->ops->detach(lan);
free:
	rdma_free(rdma);
	return ret;
}

static void rdma_remove(struct virtbus_device *vdev)
{
	struct rdma_device *rdma = virtbus_get_drvdata(vdev);
	struct lan_device *lan = rdma->lan;

	lan_event(&vdev->dev, "remove");
	misc_deregister(&rdma->misc);
	lan->ops->detach(lan);
	rdma_free(rdma);
	mutex_lock(&rdma_kept_lock);
	if (rdma_keep && !rdma_kept) {
		get_device(&vdev->dev);
		rdma_kept = lan;
	}
	mutex_unlock(&rdma_kept_lock);
}

static void rdma_shutdown(struct virtbus_device *vdev)
{
	lan_event(&vdev->dev, "shutdown");
}

static int rdma_suspend(struct device *dev)
{
	lan_event(dev, "suspend");
	return 0;
}

static int rdma_resume(struct device *dev)
{
	lan_event(dev, "resume");
	return 0;
}

static const struct dev_pm_ops rdma_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(rdma_suspend, rdma_resume)
};

static const struct virtbus_device_id rdma_ids[] = {
	{ .name = "virtbus_lan.rdma" },
	{ }
};
MODULE_DEVICE_TABLE(virtbus, rdma_ids);

static struct virtbus_driver rdma_driver = {
	.id_table = rdma_ids,
	.probe = rdma_probe,
	.remove = rdma_remove,
	.shutdown = rdma_shutdown,
	.driver.pm = pm_sleep_ptr(&rdma_pm_ops),
};

/*
 * Files in debugfs: "keep" says that the next device removed is kept; "kept" calls an operation of
 * it.
 */

static int rdma_kept_show(struct seq_file *file, void *unused)
{
	int ret = -ENXIO;

	mutex_lock(&rdma_kept_lock);
	if (rdma_kept) {
		ret = rdma_kept->ops->request_queues(rdma_kept, 1);
		put_device(&rdma_kept->vdev.dev);
		rdma_kept = NULL;
	}
	mutex_unlock(&rdma_kept_lock);
	seq_printf(file, "%d\n", ret);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(rdma_kept);

static struct dentry *rdma_dir;

static int __init rdma_init(void)
{
	int ret;

	ret = virtbus_drv_register(&rdma_driver);
	if (ret)
		return ret;
	rdma_dir = debugfs_create_dir(KBUILD_MODNAME, NULL);
	debugfs_create_bool("keep", 0600, rdma_dir, &rdma_keep);
	debugfs_create_file("kept", 0400, rdma_dir, NULL, &rdma_kept_fops);
	return 0;
}
module_init(rdma_init);

static void __exit rdma_exit(void)
{
	debugfs_remove_recursive(rdma_dir);
	virtbus_drv_unregister(&rdma_driver);
	if (rdma_kept)
		put_device(&rdma_kept->vdev.dev);
}
module_exit(rdma_exit);

MODULE_DESCRIPTION("Driver of the virtbus devices of virtbus_lan");
MODULE_LICENSE("GPL");
