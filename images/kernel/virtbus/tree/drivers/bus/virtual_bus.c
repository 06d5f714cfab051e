// SPDX-License-Identifier: GPL-2.0-only
/*
 * Virtual bus: pairs devices that one kernel module makes with drivers of another.
 *
 * See Documentation/driver-api/virtual_bus.rst.
 */

#define pr_fmt(fmt) "virtbus: " fmt

#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/idr.h>
#include <linux/init.h>
#include <linux/list.h>
#include <linux/notifier.h>
#include <linux/pm.h>
#include <linux/pm_runtime.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/virtual_bus.h>
#include <linux/wait.h>

/*
 * A name that devices bear, "module.name", and the numbers that tell them apart. It lives as long
 * as one of its devices, which is until that device's last reference is gone.
 */
struct virtbus_name {
	struct list_head node;
	struct module *owner;
	unsigned int users;
	struct ida ids;
	char text[VIRTBUS_NAME_SIZE];
};

/* Protects the list, the numbers of users, and driver_override of every device. */
static DEFINE_SPINLOCK(virtbus_lock);
static LIST_HEAD(virtbus_names);
static DECLARE_WAIT_QUEUE_HEAD(virtbus_name_gone);

/* What probe gets for a device that the driver was forced upon. */
static const struct virtbus_device_id virtbus_id_forced;

/* Other characters would mean something in a device's name, in a path or in an alias. */
static bool virtbus_name_valid(const char *name)
{
	const char *c;

	for (c = name; *c; c++)
		if (!isascii(*c) || !(isalnum(*c) || *c == '_'))
			return false;
	return c != name;
}

static struct virtbus_name *virtbus_name_get(const char *modname, const char *name,
					     struct module *owner)
{
	struct virtbus_name *new, *known;

	new = kzalloc(sizeof(*new), GFP_KERNEL);
	if (!new)
		return ERR_PTR(-ENOMEM);
	if (snprintf(new->text, sizeof(new->text), "%s.%s", modname, name) >= sizeof(new->text)) {
		kfree(new);
		return ERR_PTR(-ENAMETOOLONG);
	}
	new->owner = owner;
	new->users = 1;
	ida_init(&new->ids);

	spin_lock_irq(&virtbus_lock);
	list_for_each_entry(known, &virtbus_names, node) {
		if (!strcmp(known->text, new->text)) {
			known->users++;
			spin_unlock_irq(&virtbus_lock);
			kfree(new);
			return known;
		}
	}
	list_add(&new->node, &virtbus_names);
	spin_unlock_irq(&virtbus_lock);
	return new;
}

static void virtbus_name_put(struct virtbus_name *name)
{
	unsigned long flags;
	bool last;

	/* No rule says where a last reference may be dropped. */
	spin_lock_irqsave(&virtbus_lock, flags);
	last = !--name->users;
	if (last)
		list_del(&name->node);
	spin_unlock_irqrestore(&virtbus_lock, flags);
	if (!last)
		return;
	ida_destroy(&name->ids);
	kfree(name);
	wake_up_all(&virtbus_name_gone);
}

#ifdef CONFIG_MODULES
static bool virtbus_owns_names(const struct module *owner)
{
	const struct virtbus_name *name;
	bool found = false;

	spin_lock_irq(&virtbus_lock);
	list_for_each_entry(name, &virtbus_names, node)
		found |= name->owner == owner;
	spin_unlock_irq(&virtbus_lock);
	return found;
}

/*
 * Whoever holds a reference to a device makes its release function run later, and that is code of
 * the creator. So the creator's code stays until it has run.
 */
static int virtbus_module_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct module *mod = data;

	if (event != MODULE_STATE_GOING)
		return NOTIFY_DONE;
	while (!wait_event_timeout(virtbus_name_gone, !virtbus_owns_names(mod), 10 * HZ))
		pr_warn("%s cannot go: references to its devices are held\n",
			module_name(mod));
	return NOTIFY_OK;
}

static struct notifier_block virtbus_module_notifier = {
	.notifier_call = virtbus_module_event,
};

static int virtbus_watch_modules(void)
{
	return register_module_notifier(&virtbus_module_notifier);
}

static void virtbus_unwatch_modules(void)
{
	unregister_module_notifier(&virtbus_module_notifier);
}
#else
static int virtbus_watch_modules(void)
{
	return 0;
}

static void virtbus_unwatch_modules(void)
{
}
#endif

static const struct virtbus_device_id *virtbus_find_id(const struct virtbus_driver *vdrv,
						       const struct virtbus_device *vdev)
{
	const struct virtbus_device_id *id;

	for (id = vdrv->id_table; id->name[0]; id++)
		if (!strcmp(id->name, vdev->name->text))
			return id;
	return NULL;
}

static int virtbus_match(struct device *dev, const struct device_driver *drv)
{
	const struct virtbus_device *vdev = to_virtbus_dev(dev);
	bool forced, wanted = false;

	spin_lock_irq(&virtbus_lock);
	forced = vdev->driver_override;
	if (forced)
		wanted = !strcmp(vdev->driver_override, drv->name);
	spin_unlock_irq(&virtbus_lock);
	return forced ? wanted : !!virtbus_find_id(to_virtbus_drv(drv), vdev);
}

static int virtbus_uevent(const struct device *dev, struct kobj_uevent_env *env)
{
	return add_uevent_var(env, "MODALIAS=" VIRTBUS_MODULE_PREFIX "%s",
			      to_virtbus_dev(dev)->name->text);
}

static int virtbus_probe(struct device *dev)
{
	const struct virtbus_driver *vdrv = to_virtbus_drv(dev->driver);
	struct virtbus_device *vdev = to_virtbus_dev(dev);

	return vdrv->probe(vdev, virtbus_find_id(vdrv, vdev) ?: &virtbus_id_forced);
}

static void virtbus_remove(struct device *dev)
{
	const struct virtbus_driver *vdrv = to_virtbus_drv(dev->driver);

	if (vdrv->remove)
		vdrv->remove(to_virtbus_dev(dev));
}

static void virtbus_shutdown(struct device *dev)
{
	const struct virtbus_driver *vdrv;

	/* The driver core asks for every device, bound or not. */
	if (!dev->driver)
		return;
	vdrv = to_virtbus_drv(dev->driver);
	if (vdrv->shutdown)
		vdrv->shutdown(to_virtbus_dev(dev));
}

static ssize_t driver_override_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	const struct virtbus_device *vdev = to_virtbus_dev(dev);
	ssize_t length;

	spin_lock_irq(&virtbus_lock);
	length = sysfs_emit(buf, "%s\n", vdev->driver_override ?: "(null)");
	spin_unlock_irq(&virtbus_lock);
	return length;
}

static ssize_t driver_override_store(struct device *dev, struct device_attribute *attr,
				     const char *buf, size_t count)
{
	struct virtbus_device *vdev = to_virtbus_dev(dev);
	size_t length = strcspn(buf, "\n");
	const char *new = NULL;

	/* So that it can be read back with its newline. */
	if (length >= PAGE_SIZE - 1)
		return -EINVAL;
	if (length) {
		new = kstrndup(buf, length, GFP_KERNEL);
		if (!new)
			return -ENOMEM;
	}
	spin_lock_irq(&virtbus_lock);
	swap(vdev->driver_override, new);
	spin_unlock_irq(&virtbus_lock);
	kfree(new);
	return count;
}
static DEVICE_ATTR_RW(driver_override);

static ssize_t modalias_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, VIRTBUS_MODULE_PREFIX "%s\n", to_virtbus_dev(dev)->name->text);
}
static DEVICE_ATTR_RO(modalias);

static struct attribute *virtbus_dev_attrs[] = {
	&dev_attr_driver_override.attr,
	&dev_attr_modalias.attr,
	NULL
};
ATTRIBUTE_GROUPS(virtbus_dev);

/* Each calls the driver's callback if there is a driver and it has one. */
static const struct dev_pm_ops virtbus_pm_ops = {
	SYSTEM_SLEEP_PM_OPS(pm_generic_suspend, pm_generic_resume)
	RUNTIME_PM_OPS(pm_generic_runtime_suspend, pm_generic_runtime_resume, NULL)
};

static const struct bus_type virtbus_type = {
	.name = "virtbus",
	.dev_groups = virtbus_dev_groups,
	.match = virtbus_match,
	.uevent = virtbus_uevent,
	.probe = virtbus_probe,
	.remove = virtbus_remove,
	.shutdown = virtbus_shutdown,
	.pm = pm_ptr(&virtbus_pm_ops),
};

static void virtbus_dev_release(struct device *dev)
{
	struct virtbus_device *vdev = to_virtbus_dev(dev);
	struct virtbus_name *name = vdev->name;

	kfree(vdev->driver_override);
	ida_free(&name->ids, vdev->id);
	vdev->release(vdev);
	/* Last: from now on the module that has the release function may go. */
	virtbus_name_put(name);
}

/**
 * __virtbus_dev_init - prepare a device; use virtbus_dev_init()
 * @vdev: device
 * @name: what it is
 * @owner: module that has the release function
 * @modname: name of that module, also when it is built in
 *
 * Return: 0; -EINVAL for a device without parent or release function, or a name that is empty or
 * has other characters than letters, digits and underscores; -ENAMETOOLONG when "modname.name"
 * does not fit into a table of ids; -ENOMEM.
 */
int __virtbus_dev_init(struct virtbus_device *vdev, const char *name, struct module *owner,
		       const char *modname)
{
	struct virtbus_name *known;
	int id;

	if (!vdev->dev.parent || !vdev->release || !name || !virtbus_name_valid(name))
		return -EINVAL;
	known = virtbus_name_get(modname, name, owner);
	if (IS_ERR(known))
		return PTR_ERR(known);
	id = ida_alloc(&known->ids, GFP_KERNEL);
	if (id < 0) {
		virtbus_name_put(known);
		return id;
	}
	vdev->name = known;
	vdev->id = id;
	vdev->driver_override = NULL;
	vdev->dev.bus = &virtbus_type;
	vdev->dev.release = virtbus_dev_release;
	device_initialize(&vdev->dev);
	return 0;
}
EXPORT_SYMBOL_GPL(__virtbus_dev_init);

/**
 * virtbus_dev_add - make a device known, and bind it if there is a driver for it
 * @vdev: device after virtbus_dev_init()
 *
 * Return: 0, or an error, after which virtbus_dev_uninit() is all that is left to do.
 */
int virtbus_dev_add(struct virtbus_device *vdev)
{
	int ret;

	ret = dev_set_name(&vdev->dev, "%s.%d", vdev->name->text, vdev->id);
	if (ret)
		return ret;
	return device_add(&vdev->dev);
}
EXPORT_SYMBOL_GPL(virtbus_dev_add);

/**
 * virtbus_dev_del - unbind a device and make it unknown
 * @vdev: device after virtbus_dev_add()
 *
 * No driver uses it when this returns.
 */
void virtbus_dev_del(struct virtbus_device *vdev)
{
	device_del(&vdev->dev);
}
EXPORT_SYMBOL_GPL(virtbus_dev_del);

/**
 * virtbus_dev_uninit - drop the creator's reference
 * @vdev: device after virtbus_dev_init(), and after virtbus_dev_del() if it was added
 *
 * The release function runs when everybody else's references are gone too, perhaps now. The
 * creator's module is not unloaded before that.
 */
void virtbus_dev_uninit(struct virtbus_device *vdev)
{
	put_device(&vdev->dev);
}
EXPORT_SYMBOL_GPL(virtbus_dev_uninit);

static bool virtbus_table_valid(const struct virtbus_device_id *id)
{
	for (; id->name[0]; id++)
		if (strnlen(id->name, sizeof(id->name)) == sizeof(id->name))
			return false;
	return true;
}

/**
 * __virtbus_drv_register - register a driver; use virtbus_drv_register()
 * @vdrv: driver
 * @owner: module that has the driver
 * @modname: name of that module, also when it is built in
 *
 * Return: 0; -EINVAL for a driver without probe or table, or with a name in the table that has no
 * end; -ENOMEM; or what driver_register() says.
 */
int __virtbus_drv_register(struct virtbus_driver *vdrv, struct module *owner, const char *modname)
{
	const char *dot = vdrv->name ? "." : "";
	int ret;

	if (!vdrv->probe || !vdrv->id_table || !virtbus_table_valid(vdrv->id_table))
		return -EINVAL;
	vdrv->driver.name = kasprintf(GFP_KERNEL, "%s%s%s", modname, dot, vdrv->name ?: "");
	if (!vdrv->driver.name)
		return -ENOMEM;
	vdrv->driver.owner = owner;
	vdrv->driver.mod_name = modname;
	vdrv->driver.bus = &virtbus_type;
	ret = driver_register(&vdrv->driver);
	if (ret)
		kfree(vdrv->driver.name);
	return ret;
}
EXPORT_SYMBOL_GPL(__virtbus_drv_register);

/**
 * virtbus_drv_unregister - unbind a driver from all its devices and forget it
 * @vdrv: driver
 */
void virtbus_drv_unregister(struct virtbus_driver *vdrv)
{
	driver_unregister(&vdrv->driver);
	kfree(vdrv->driver.name);
}
EXPORT_SYMBOL_GPL(virtbus_drv_unregister);

static int __init virtbus_init(void)
{
	int ret;

	ret = bus_register(&virtbus_type);
	if (ret)
		return ret;
	ret = virtbus_watch_modules();
	if (ret)
		bus_unregister(&virtbus_type);
	return ret;
}
subsys_initcall(virtbus_init);

static void __exit virtbus_exit(void)
{
	virtbus_unwatch_modules();
	bus_unregister(&virtbus_type);
	WARN_ON(!list_empty(&virtbus_names));
}
module_exit(virtbus_exit);

MODULE_DESCRIPTION("Virtual bus");
MODULE_LICENSE("GPL");
